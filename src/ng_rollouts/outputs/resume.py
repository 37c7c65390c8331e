"""Going on with an output: whether it belongs to this run, what it holds, and what is owed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
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
from ng_rollouts.seeds import seed_of
from ng_rollouts.types import Json, Rollout, RolloutKey, key_of

_COMPARED = ("temperature", "top_p", "max_output_tokens", "seed")
"""What rows without a manifest are compared by, beside what is asked, as far as they tell."""


@dataclass(slots=True, kw_only=True)
class PriorFailures:
    """What earlier sessions left undone.

    Attributes:
        attempts: attempts that failed, by key, of rollouts that are to be tried again.
        not_retried: positions of failed rollouts that are not to be tried again.
        terminal: how many of these no run should try again.
    """

    attempts: dict[RolloutKey, int] = field(default_factory=dict)
    not_retried: set[int] = field(default_factory=set)
    terminal: int = 0


Record = Callable[[int, RolloutKey, Json], None]
"""Takes position, key and row of a rollout that is in the output."""

Locate = Callable[[RolloutKey], int | None]
"""Gives the position of a key; None if it is not planned."""

_DECIDING = (*(names_that_decide_results() - {field.name for field in fields(Manifest)}), "_target_")
"""Parameters of an agent in this process that decide its results; the manifest has fields for all others."""

_NOT_DECIDING = ("base_url", "api_key", "seconds", "attempts")
"""Options of a verifier that do not change its verdict."""


def manifest_of(config: CollectConfig, tasks: TaskFile, plan: Plan) -> Manifest:
    """The fingerprint of what is asked for now."""
    template = tasks.parser.template
    return Manifest(
        rows=plan.rows,
        rows_digest=plan.digest,
        num_repeats=config.num_repeats,
        agent_name=config.agent_name,
        responses_create_params=config.responses_create_params,
        num_repeats_add_seed=config.num_repeats_add_seed,
        prompt_template=None
        if template is None
        else [[role, list(map(list, parts))] for role, parts in template.messages],
        training_view=config.training_view,
        model=_model_of(config),
        rollouts=plan.rollouts,
        input_rows=plan.input_rows,
        shard_index=tasks.shard.index if tasks.shard else None,
        num_shards=tasks.shard.count if tasks.shard else None,
    )


def _model_of(config: CollectConfig) -> Json:
    """What decides the results of agents in this process, without addresses, keys and limits."""
    entries = {name: entry for name, entry in config.agents.items() if isinstance(entry, dict) and "url" not in entry}
    found = {f"agents.{name}": _deciding(entry, config) for name, entry in sorted(entries.items())}
    return found if config.policy_base_url is None else {**_deciding({}, config), **found}


def _deciding(entry: Json, config: CollectConfig) -> Json:
    """The deciding values of an entry; what it does not say, the config does."""
    found = {name: entry.get(name, getattr(config, name, None)) for name in _DECIDING}
    verifier = found.get("verifier")
    of_verifier = verifier if isinstance(verifier, dict) else {}
    if of_verifier:
        found["verifier"] = {name: value for name, value in of_verifier.items() if name not in _NOT_DECIDING}
    found["agent_params"] = entry.get("responses_create_params")
    found["resources_server"] = bool(entry.get("resources_base_url", config.resources_base_url))
    named = (found["tools"], found["_target_"], of_verifier.get("function"), of_verifier.get("template"))
    found["files"] = [digest for digest in map(_file_digest, named) if digest]
    return {name: value for name, value in found.items() if value}


def _file_digest(name: Any) -> str | None:
    """Digest of the file that a value names, alone or before a colon; None if it names none."""
    if not isinstance(name, str):
        return None
    path = name.partition(".py:")[0] + ".py" if ".py:" in name else name
    try:
        return hashlib.blake2b(Path(path).expanduser().read_bytes(), digest_size=8).hexdigest()
    except (OSError, ValueError):
        return None


def check_same_run(paths: OutputPaths, then: Manifest, now: Manifest, plan: Plan) -> None:
    """Refuse an output that was collected for something else.

    Raises:
        OutputError: what differs, with both values.
    """
    found = list(differences(then, now, plan.first_digest))
    if not found and plan.tasks_share_rows and then.num_repeats != now.num_repeats:
        found = [f"num_repeats: {then.num_repeats} then, {now.num_repeats} now (rows that share a task fix it)"]
    if found:
        listed = "; ".join(found)
        cure = "ask for the same, name another output, or leave +resume_from_cache out to have this one moved aside"
        raise OutputError(f"{paths.output} was collected for something else: {listed}: {cure}")


def read_back(journal: Journal, locate: Locate, record: Record) -> None:
    """Read the rows of an existing output into the journal.

    Args:
        locate: the position of a key; None if it is not planned.
        record: called once for each row.

    Raises:
        OutputError: a row is not planned.
    """

    def position_of(row: Json) -> int | None:
        key = key_of(row)
        position = None if key is None else locate(key)
        if key is None or position is None:
            what = "a row without _ng_task_index and _ng_rollout_index" if key is None else _named(key)
            raise OutputError(f"cannot resume: the output has {what}, which this input does not contain")
        if not journal.has(position):
            record(position, key, row)
        return position

    journal.read_back(position_of)


def prior_failures(failures: FailuresFile, locate: Locate, journal: Journal, *, retry: bool) -> PriorFailures:
    """What failed in earlier commands, split into what is retried and what stays failed."""
    prior = PriorFailures()
    for key, failure in failures.read_back().items():
        position = locate(key)
        if position is None or journal.has(position):
            continue
        if retry and not failure.terminal:
            prior.attempts[key] = failure.attempts
        else:
            prior.not_retried.add(position)
            prior.terminal += failure.terminal
            failures.count(failure.failure_class, failure.agent)
    return prior


def check_rows(journal: Journal, plan: Plan, tasks: TaskFile, materialized_inputs: Path) -> None:
    """Compare each row of an output without a manifest with the task that it answers.

    Args:
        materialized_inputs: what NeMo Gym's collector planned to send, if it wrote the output: better known than rows.

    Raises:
        OutputError: a row answers another prompt, or was sampled with other parameters.
    """
    planned = _planned_params(materialized_inputs)
    rollouts = tasks.rollouts(plan)
    for position, row in journal.rows():
        rollout = next(rollout for rollout in rollouts if rollout.position == position)
        difference = _difference(row, rollout, planned.get(rollout.key))
        if difference:
            raise OutputError(
                f"cannot resume: the output was collected for something else: {_named(rollout.key)} {difference}"
            )


def _planned_params(path: Path) -> dict[RolloutKey, Json]:
    """The compared parameters of planned rows, as far as there are any."""
    if not path.exists():
        return {}
    rows = (row for _, _, row in rows_of([path]))
    keyed = ((key_of(row), row.get("responses_create_params")) for row in rows)
    return {key: _told(params, _COMPARED) for key, params in keyed if key and isinstance(params, dict)}


def _told(params: Json, names: Iterable[str]) -> Json:
    """These parameters; a seed is where NeMo Gym has it, too."""
    told = {name: params.get(name) for name in names}
    if "seed" in told:
        told["seed"] = seed_of(params)
    return told


def _difference(row: Json, rollout: Rollout, planned: Json | None) -> str | None:
    reference = row.get("agent_ref")
    agent = reference.get("name") if isinstance(reference, dict) else None
    if agent not in (None, rollout.agent):
        return f"is of agent {agent!r}, not {rollout.agent!r}"
    asked, params = row.get("responses_create_params"), rollout.request().body["responses_create_params"]
    if not isinstance(asked, dict):
        return None
    if _messages(asked) != _messages(params):
        return "asks something else than the input does"
    if None not in (asked.get("model"), params.get("model")) and asked["model"] != params["model"]:
        return f"has responses_create_params.model {asked['model']!r}, not {params['model']!r}"
    telling = [name for name in _COMPARED if name in asked or (name == "seed" and "metadata" in asked)]
    then = _told(asked, telling) if planned is None else planned
    now = _told(params, then)
    for name in then:
        if then[name] != now[name]:
            return f"has responses_create_params.{name} {then[name]!r}, not {now[name]!r}"
    return None


def _messages(params: Json) -> list[tuple[str, str]]:
    """What is asked, whatever form it is in."""
    items = params.get("input")
    if isinstance(items, str):
        return [("user", items)]
    return [(str(item.get("role")), _content(item)) for item in items or () if isinstance(item, dict)]


def _content(item: Json) -> str:
    """A message's text and images, or what else an item holds."""
    parts = item.get("content", item.get("output", item.get("arguments")))
    if not isinstance(parts, list):
        return str(parts)
    return "".join(
        str(part.get("text", part.get("image_url"))) if isinstance(part, dict) else str(part) for part in parts
    )


def _named(key: RolloutKey) -> str:
    return f"task {key.task_index}, rollout {key.rollout_index}"
