"""Resume an output: check that it belongs to this run, read its rows, and find out which failures to retry.

The output belongs to the run if its manifest has the same settings. An output without a manifest, for example one that
NeMo Gym wrote, is checked row by row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ng_rollouts.config.parameters import CollectConfig, names_that_decide_results
from ng_rollouts.errors import OutputError
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.task_file import TaskFile
from ng_rollouts.outputs.failures import FailuresFile
from ng_rollouts.outputs.journal import Journal
from ng_rollouts.outputs.manifest import Manifest, differences
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.outputs.reader import rows_of
from ng_rollouts.redaction import mask_settings
from ng_rollouts.seeds import seed_of
from ng_rollouts.types import Json, Rollout, RolloutKey, key_of

_COMPARED_SAMPLING = ("temperature", "top_p", "max_output_tokens", "seed")
"""Sampling parameters by which rows without a manifest are compared, in addition to agent, messages and model."""


@dataclass(slots=True, kw_only=True)
class PriorFailures:
    """Failures that earlier commands left.

    Attributes:
        attempts: number of failed attempts, by key, of rollouts that are retried.
        not_retried: positions of failed rollouts that are not retried.
        terminal: number of failed rollouts that no run should retry.
        unscored: number of failed rollouts that are not retried and have an answer.
        elapsed_s: how long the last attempt took, by key, of rollouts that are retried, if it is known.
    """

    attempts: dict[RolloutKey, int] = field(default_factory=dict)
    not_retried: set[int] = field(default_factory=set)
    terminal: int = 0
    unscored: int = 0
    elapsed_s: dict[RolloutKey, float] = field(default_factory=dict)


Record = Callable[[int, RolloutKey, Json], None]
"""Receives position, key and row of a rollout in the output."""

Locate = Callable[[RolloutKey], int | None]
"""Maps a key to its position; None if it is not planned."""

_PARAMETERS_IN_MODEL_FIELD = (*(names_that_decide_results() - {field.name for field in fields(Manifest)}), "_target_")
"""Parameters that affect the results of an agent in this process. The manifest has them in its field `model`."""

_IMPLIED = {"token_ids": "never"}
"""The values of parameters that earlier versions did not have. At these values, no manifest has them."""

_OF_ENVIRONMENTS = ("timeout_exceeded", "reference_missing", "eval_missing", "transport_ineligible")
"""NeMo Gym's classes of terminal failures that another environment may not have."""

_SKIPPED = "skipped"
"""NeMo Gym's class of rollouts that it never retries once such failures are."""

_VERIFIER_OPTIONS_WITHOUT_EFFECT = ("base_url", "api_key", "seconds", "attempts")
"""Options of a verifier that do not affect its scores."""


def manifest_of(config: CollectConfig, tasks: TaskFile, plan: Plan) -> Manifest:
    """The manifest of this run."""
    template = tasks.parser.template
    return Manifest(
        rows=plan.rows,
        rows_digest=plan.digest,
        num_repeats=config.num_repeats,
        agent_name=config.agent_name,
        agent_map=dict(config.agent_map),
        fan_out=dict(config.fan_out),
        responses_create_params=mask_settings(config.responses_create_params, "responses_create_params"),
        num_repeats_add_seed=config.num_repeats_add_seed,
        prompt_template=None
        if template is None
        else [[role, list(map(list, parts))] for role, parts in template.messages],
        training_view=config.training_view,
        model=mask_settings(_agent_settings(config)),
        rollouts=plan.rollouts,
        input_rows=plan.input_rows,
        shard_index=tasks.shard.index if tasks.shard else None,
        num_shards=tasks.shard.count if tasks.shard else None,
    )


def _agent_settings(config: CollectConfig) -> Json:
    """Settings that affect the results of agents in this process, without addresses, API keys and limits."""
    entries = {name: entry for name, entry in config.agents.items() if isinstance(entry, dict) and "url" not in entry}
    settings = {f"agents.{name}": _entry_settings(entry, config) for name, entry in sorted(entries.items())}
    return settings if config.policy_base_url is None else {**_entry_settings({}, config), **settings}


def _entry_settings(entry: Json, config: CollectConfig) -> Json:
    """The settings of one entry of `agents`; the parameters of the command are its defaults."""
    settings = {name: entry.get(name, getattr(config, name, None)) for name in _PARAMETERS_IN_MODEL_FIELD}
    files = _code_of(settings)
    verifier = settings.get("verifier")
    if isinstance(verifier, dict) and verifier:
        settings["verifier"] = _with_effect(verifier)
    settings["agent_params"] = entry.get("responses_create_params")
    if settings["scoring"] == "now":  # as in a manifest of an earlier version, which had no other way
        del settings["scoring"]
    settings["resources_server"] = bool(entry.get("resources_base_url", config.resources_base_url))
    # The user's code counts as a setting: a changed file would give different results under the same name.
    settings["files"] = [digest for digest in map(_file_digest, files) if digest]
    return {name: value for name, value in settings.items() if value and _IMPLIED.get(name) != value}


def _with_effect(verifier: Json) -> Json:
    """The options of a verifier that affect its scores, and those of its judges."""
    options = {name: value for name, value in verifier.items() if name not in _VERIFIER_OPTIONS_WITHOUT_EFFECT}
    if isinstance(judges := options.get("judges"), list):
        options["judges"] = [_with_effect(judge) if isinstance(judge, dict) else judge for judge in judges]
    return options


def verifier_settings(options: Json) -> Json:
    """The options of a verifier that affect its scores, and a digest of its code or template."""
    digests = [digest for digest in map(_file_digest, _code_of({"verifier": options})) if digest]
    return {**mask_settings(_with_effect(options)), **({"files": digests} if digests else {})}


def verifier_files(options: Json) -> list[Path]:
    """The files of a verifier's code and template."""
    return [path for path in map(_file_of, _code_of({"verifier": options})) if path and path.is_file()]


def files_of(config: CollectConfig) -> list[Path]:
    """The files that a run reads in addition to its input, as far as they exist: template, code, env.yaml."""
    names: list[Any] = [config.prompt_config, "env.yaml"]
    for entry in ({}, *(entry for entry in config.agents.values() if isinstance(entry, dict))):
        names += _code_of({name: entry.get(name, getattr(config, name, None)) for name in _PARAMETERS_IN_MODEL_FIELD})
    return [path for path in map(_file_of, names) if path and path.is_file()]


def _code_of(settings: Json) -> list[Any]:
    """The names of the user's code and files in the settings of an agent."""
    verifier = settings.get("verifier")
    options = verifier if isinstance(verifier, dict) else {}
    return [settings.get("tools"), settings.get("_target_"), options.get("function"), options.get("template")]


def _file_of(name: Any) -> Path | None:
    """The file that a value such as `x.py` or `x.py:function` names; None if it is not a path."""
    if not isinstance(name, str):
        return None
    path = name.partition(".py:")[0] + ".py" if ".py:" in name else name
    try:
        return Path(path).expanduser()
    except RuntimeError:  # `~user` of an unknown user
        return None


def _file_digest(name: Any) -> str | None:
    """Digest of the file that a value names; None if it does not name a file."""
    try:
        path = _file_of(name)
        return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() if path else None
    except (OSError, ValueError):
        return None


def check_same_run(paths: OutputPaths, then: Manifest, now: Manifest, plan: Plan) -> None:
    """Check that an output with a manifest belongs to this run.

    Raises:
        OutputError: it does not; the message lists the differences, with the values then and now.
    """
    different = list(differences(then, now, plan.first_digest))
    # More repeats of the first of two rows with one task index, or of the first of two agents, would renumber the
    # rollouts of the second.
    if not different and plan.is_renumbered_by_repeats and then.num_repeats != now.num_repeats:
        reason = "it cannot change, because several rows or agents have the same _ng_task_index"
        different = [f"num_repeats: {then.num_repeats} then, {now.num_repeats} now ({reason})"]
    if different:
        listed = "; ".join(different)
        fix = "use the same settings, choose another output, or omit +resume_from_cache to rename this one"
        if _defers_scoring(then) and not _defers_scoring(now):
            fix = "ng_rescore_rollouts scores its answers; to collect the rest first, add +scoring=defer"
        raise OutputError(f"cannot resume: the output {paths.output} is of a different run: {listed}: {fix}")


def _defers_scoring(manifest: Manifest) -> bool:
    """True for a run whose rows have no scores yet."""
    return any(
        (value.get("scoring") if isinstance(value, dict) else name == "scoring" and value) == "defer"
        for name, value in manifest.model.items()
    )


def read_back(journal: Journal, locate: Locate, record: Record, *, has_manifest: bool) -> None:
    """Read the rows of an existing output into the journal.

    Args:
        has_manifest: whether a manifest shows that the output is of this run. A row without a key is then one that
            another program has appended.
        locate: maps a key to its position; None if it is not planned.
        record: called once for each row, without duplicates.

    Raises:
        OutputError: a row is not planned.
    """

    def position_of(row: Json) -> int | None:
        key = key_of(row)
        if key is None and has_manifest:
            return None
        position = None if key is None else locate(key)
        if key is None or position is None:
            row_name = "a row without _ng_task_index and _ng_rollout_index" if key is None else _format_key(key)
            raise OutputError(f"cannot resume: the output has {row_name}, which this input does not contain")
        if not journal.has(position):
            record(position, key, row)
        return position

    journal.read_back(position_of)


def prior_failures(
    failures: FailuresFile, locate: Locate, journal: Journal, *, retry: bool, retry_timeouts: bool = False
) -> PriorFailures:
    """The failures of earlier commands, split into those that are retried and those that are not.

    Args:
        retry: whether failed rollouts are retried, unless their failure is terminal.
        retry_timeouts: whether failures that are due to the environment are retried, although they are terminal.
    """
    prior = PriorFailures()
    for key, failure in failures.read_back().items():
        position = locate(key)
        if position is None or journal.has(position):
            continue
        again = retry_timeouts and failure.failure_class in _OF_ENVIRONMENTS
        skipped = retry_timeouts and failure.failure_class == _SKIPPED
        if retry and (again or not (failure.terminal or failure.is_exhausted or skipped)):
            prior.attempts[key] = failure.attempts
            if failure.elapsed_s is not None:
                prior.elapsed_s[key] = failure.elapsed_s
        else:
            prior.not_retried.add(position)
            prior.terminal += failure.terminal
            prior.unscored += failure.has_answer
            failures.count(failure.failure_class, failure.agent)
    return prior


def check_rows(journal: Journal, rollouts: Iterator[Rollout], materialized_inputs: Path) -> None:
    """Check an output without a manifest: compare each row with its task.

    Args:
        rollouts: all planned rollouts, in order.
        materialized_inputs: the planned rows, if NeMo Gym's collector wrote them. They have the parameters that were
            sent, which an agent need not repeat in its rows.

    Raises:
        OutputError: a row has a different prompt, or other sampling parameters.
    """
    planned = _planned_params(materialized_inputs)
    for position, row in journal.rows():
        # Both are ordered by position, so this is one pass over the input.
        rollout = next(rollout for rollout in rollouts if rollout.position == position)
        difference = _difference(row, rollout, planned.get(rollout.key))
        if difference:
            raise OutputError(
                f"cannot resume: the output is of a different run: {_format_key(rollout.key)} {difference}"
            )


def _planned_params(path: Path) -> dict[RolloutKey, Json]:
    """The compared parameters of the planned rows, by key; empty if the file does not exist."""
    if not path.exists():
        return {}
    rows = (row for _, _, row in rows_of([path]))
    keyed = ((key_of(row), row.get("responses_create_params")) for row in rows)
    return {key: _select(params, _COMPARED_SAMPLING) for key, params in keyed if key and isinstance(params, dict)}


def _select(params: Json, names: Iterable[str]) -> Json:
    """The parameters with these names; the seed may be in `metadata.extra_body`, as in rows of NeMo Gym."""
    selected = {name: params.get(name) for name in names}
    if "seed" in selected:
        selected["seed"] = seed_of(params)
    return selected


def _difference(row: Json, rollout: Rollout, planned: Json | None) -> str | None:
    """The first difference between a row and its task, as the end of a message; None if there is none.

    Args:
        planned: the compared parameters of the planned row, if there is one.
    """
    reference = row.get("agent_ref")
    agent = reference.get("name") if isinstance(reference, dict) else None
    if agent not in (None, rollout.agent):
        return f"has the agent {agent!r}, not {rollout.agent!r}"
    if rollout.is_episode:
        return None
    row_params, params = row.get("responses_create_params"), rollout.request().body["responses_create_params"]
    if not isinstance(row_params, dict):
        return None
    if _messages(row_params) != _messages(params):
        return "has a different prompt than the input"
    if None not in (row_params.get("model"), params.get("model")) and row_params["model"] != params["model"]:
        return f"has responses_create_params.model {row_params['model']!r}, not {params['model']!r}"
    # A parameter that the row does not have proves nothing, because agents need not repeat all of them.
    names = [name for name in _COMPARED_SAMPLING if name in row_params or (name == "seed" and "metadata" in row_params)]
    then = _select(row_params, names) if planned is None else planned
    now = _select(params, then)
    for name in then:
        if then[name] != now[name]:
            return f"has responses_create_params.{name} {then[name]!r}, not {now[name]!r}"
    return None


def _messages(params: Json) -> list[tuple[str, str]]:
    """The input as (role, text) pairs, so that a string and a list of messages can be compared."""
    items = params.get("input")
    if isinstance(items, str):
        return [("user", items)]
    return [(str(item.get("role")), _content(item)) for item in items or () if isinstance(item, dict)]


def _content(item: Json) -> str:
    """Text and images of a message; the output or the arguments of an item that is not a message."""
    parts = item.get("content", item.get("output", item.get("arguments")))
    if not isinstance(parts, list):
        return str(parts)
    return "".join(
        str(part.get("text", part.get("image_url"))) if isinstance(part, dict) else str(part) for part in parts
    )


def _format_key(key: RolloutKey) -> str:
    return f"task {key.task_index}, rollout {key.rollout_index}"
