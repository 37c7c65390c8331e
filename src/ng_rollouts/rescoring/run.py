"""Score the rollouts of a file again: a run whose tasks are rollouts, and whose agent is their verifier."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from ng_rollouts.agents.base import Agent
from ng_rollouts.agents.factory import AgentFactory, open_factory
from ng_rollouts.agents.urls import parse_urls
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import counted, log
from ng_rollouts.errors import ConfigError, InputError, OutputError
from ng_rollouts.integrations.live import LiveTrackers
from ng_rollouts.integrations.runner import products_of
from ng_rollouts.jsonl import loads
from ng_rollouts.metrics.agreement import Agreement, ScoreChanges, label_of
from ng_rollouts.outputs.manifest import Manifest, identity_of, read_manifest
from ng_rollouts.outputs.path_checks import check_output, check_side_files
from ng_rollouts.outputs.paths import OutputPaths, output_paths
from ng_rollouts.outputs.reader import FileState, check_readable, keyed_rows
from ng_rollouts.outputs.resume import check_same_run, verifier_files, verifier_settings
from ng_rollouts.redaction import mask_settings
from ng_rollouts.rescoring.config import RescoreConfig
from ng_rollouts.rescoring.planned_rows import PlannedRows
from ng_rollouts.rescoring.rescorer import Rescorer
from ng_rollouts.rescoring.resources_scorer import ResourcesScorer
from ng_rollouts.rescoring.scorable import PREVIOUS_REWARD, RESCORED, Selection, task_of, value_at
from ng_rollouts.rescoring.source import KeyedPlan, RolloutSource
from ng_rollouts.run.budget import Budget
from ng_rollouts.run.prepare import PreparedRun
from ng_rollouts.run.run import Run, loop_factory
from ng_rollouts.storage.atomic import write_json
from ng_rollouts.storage.lock import holder_of
from ng_rollouts.types import Json
from ng_rollouts.verifiers.registry import is_group_verifier, verifier_options


def rescore(config: RescoreConfig, command: Sequence[str] = (), run: CollectConfig | None = None) -> int:
    """Score rollouts again, print what changed, and return the exit code.

    Args:
        command: the command that was typed, for the resume command.
        run: the parameters of the run that collects the rollouts in the same command, if there is one. Its file may
            have grown when this is resumed.

    Raises:
        UsageError: something is wrong that can be known before the first score.
        RolloutsFailed: more rollouts could not be scored than allowed; the others are in the output.
        StoppedEarly: continuing was pointless; what was scored is in the output.
        Interrupted: a signal ended the run; what was scored is in the output.
    """
    collect = run or config.as_collect_config()
    prepared = prepare_rescoring(config, collect, may_grow=run is not None)
    rescoring = _Rescoring(config, collect)
    before = _written(prepared.paths.summary)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(Run(collect, prepared, command, resolve=rescoring.agents(prepared)).collect())
    finally:
        # Otherwise, the output is still that of an earlier command.
        if _written(prepared.paths.summary) != before:
            _report_changes(config, prepared.paths, is_first=run is not None)


def prepare_rescoring(config: RescoreConfig, collect: CollectConfig, *, may_grow: bool = False) -> PreparedRun:
    """Check the configuration, the rollouts and the output.

    Args:
        may_grow: whether a resume accepts more rollouts than there were, if they are of the same run.

    Raises:
        UsageError: something is wrong that can be known before the first score.
    """
    options = _options(config)
    source_path = Path(config.rollouts_jsonl_fpath).expanduser()
    check_readable("rollouts_jsonl_fpath", source_path, follows=True)
    _check_not_written(source_path)
    source = output_paths(str(source_path))
    check_side_files(source)
    paths = output_paths(config.output_jsonl_fpath, products_of(collect.export, report=collect.report))
    tasks_path = _tasks_path(config, source)
    others = [path for path in (tasks_path, source.incomplete, source.failures) if path and path.exists()]
    check_output(paths, (source_path, *others), [path for each in options.values() for path in verifier_files(each)])
    is_group = any(map(is_group_verifier, options.values()))
    tasks = RolloutSource(
        paths=source,
        planned=PlannedRows(tasks_path),
        selection=Selection(only=config.only, where=config.where),
        with_groups=is_group,
        # The scores of this command do not exist yet.
        label_field=None if config.agreement_with in _scores_of(options) else config.agreement_with,
    )
    plan = tasks.plan()
    _check_finished(source, plan, is_group=is_group)
    if may_grow and (collected := read_manifest(source.manifest)):
        plan.digest = plan.first_digest = identity_of(collected)
    manifest = _manifest(config, collect, options, plan, source)
    prior_manifest = read_manifest(paths.manifest) if config.resume_from_cache else None
    if prior_manifest:
        check_same_run(paths, prior_manifest, manifest, plan)
    return PreparedRun(
        tasks=tasks,
        plan=plan,
        paths=paths,
        manifest=manifest,
        prior_manifest=prior_manifest,
        upload=None,
        budget=Budget(collect.price_per_million, collect.max_total_tokens, collect.judge_price_per_million),
        dispatched=lambda: tasks.rollouts(plan),
        trackers=LiveTrackers(collect.export, paths.output, collect.export_project),
        is_rescoring=True,
    )


def _scores_of(options: Mapping[str, Json]) -> set[str]:
    """The fields with the scores of named verifiers."""
    return {f"{name}_reward" for name in options if name}


def _check_finished(source: OutputPaths, plan: KeyedPlan, *, is_group: bool) -> None:
    """Compare the number of rollouts with the planned ones of their run.

    Raises:
        InputError: some are missing, and groups are to be compared as a whole.
    """
    planned = 0
    with suppress(OutputError):
        manifest = read_manifest(source.manifest)
        planned = manifest.rollouts if manifest else 0
    if plan.rollouts >= planned:
        return
    of_planned = f"{plan.rollouts} of {counted(planned, 'planned rollout')}"
    message = f"{source.finished} has {of_planned}, so its run is not finished"
    if is_group:
        raise InputError(f"{message}, and a judge of groups needs whole groups: resume it first")
    log(f"warning: {message}: resume it first to score all of them")


class _Rescoring:
    """Makes the verifiers when the run begins."""

    def __init__(self, config: RescoreConfig, collect: CollectConfig) -> None:
        self._config = config
        self._collect = collect

    def agents(self, prepared: PreparedRun) -> Callable[[AsyncExitStack], Awaitable[dict[str, Agent]]]:
        """A function that makes the agents: all rows have the same, whichever agent answered them."""

        async def make(stack: AsyncExitStack) -> dict[str, Agent]:
            factory = await open_factory(self._collect, stack)
            rescorer = await self._rescorer(factory)
            await factory.wait_for_servers([])
            return dict.fromkeys(prepared.plan.agents, rescorer)

        return make

    async def _rescorer(self, factory: AgentFactory) -> Rescorer:
        config = self._config
        selection = Selection(only=config.only, where=config.where)
        if config.resources_base_url:
            url = parse_urls(config.resources_base_url, "resources_base_url")[0]
            scorer = ResourcesScorer(url=url, http=factory.http)
            factory.resources_urls.append(url)
            await factory.wait_for_servers([])
            if not config.force:
                await scorer.check_stateless()
            return Rescorer(verifiers={"": scorer}, selection=selection, label_field=config.agreement_with)
        options = _options(config)
        group = next(filter(is_group_verifier, options.values()), None)
        return Rescorer(
            verifiers={}
            if group
            else {name: factory.verifier(each, _parameter(name), {}) for name, each in options.items()},
            group_verifier=factory.group_verifier(group) if group else None,
            selection=selection,
            label_field=config.agreement_with,
        )


def _check_not_written(path: Path) -> None:
    with path.open("rb") as file:
        if holder := holder_of(file.fileno()):
            raise InputError(f"rollouts_jsonl_fpath {path} is being written by {holder}: wait for its end")


def _parameter(name: str) -> str:
    return f"verifiers.{name}" if name else "verifier"


def _options(config: RescoreConfig) -> dict[str, Json]:
    """The checked options of the verifiers by name; that of `verifier` is empty.

    Raises:
        ConfigError: a value is not valid.
    """
    values = {"": config.verifier} if config.verifier else config.verifiers
    options = {name: verifier_options(value, _parameter(name)) for name, value in values.items()}
    for name, each in options.items():
        _check_options(_parameter(name), each, is_alone=len(options) == 1)
        if name and (not name.isidentifier() or f"{name}_reward" == PREVIOUS_REWARD):
            raise ConfigError(
                f"verifiers.{name}: a name has letters, digits and underscores only, and is not `previous`"
            )
    return options


def _check_options(parameter: str, options: Json, *, is_alone: bool) -> None:
    if options["kind"] == "none":
        raise ConfigError(f"{parameter}=none scores nothing: name a verifier")
    judges = options.get("judges") or [{}]
    if options["kind"] == "judge" and not all("base_url" in {**options, **judge} for judge in judges):
        raise ConfigError(f"{parameter}=judge needs the judge's model server: add +{parameter}.base_url=URL")
    if is_group_verifier(options) and not is_alone:
        raise ConfigError(f"{parameter}: a judge of groups cannot be one of several verifiers")


def _tasks_path(config: RescoreConfig, source: OutputPaths) -> Path | None:
    if config.tasks_jsonl_fpath is not None:
        path = Path(config.tasks_jsonl_fpath).expanduser()
        check_readable("tasks_jsonl_fpath", path)
        return path
    return source.materialized_inputs if source.materialized_inputs.exists() else None


def _manifest(
    config: RescoreConfig, collect: CollectConfig, options: dict[str, Json], plan: KeyedPlan, source: OutputPaths
) -> Manifest:
    """The manifest: that of the rollouts, with the verifiers that scored them before and now."""
    before = None
    with suppress(OutputError):  # a damaged one does not keep the rows from being scored
        before = read_manifest(source.manifest)
    previous, model = _previous_verifier(before.model if before else {})
    model.pop("scoring", None)  # of answers whose scores were left to this run
    now = {_parameter(name): verifier_settings(each) for name, each in options.items()}
    if config.resources_base_url:
        now["resources_server"] = {"stateless": not config.force}
    return Manifest(
        rows=plan.rows,
        rows_digest=plan.digest,
        num_repeats=before.num_repeats if before else 1,
        agent_name=None,
        responses_create_params=before.responses_create_params if before else {},
        num_repeats_add_seed=before.num_repeats_add_seed if before else False,
        prompt_template=before.prompt_template if before else None,
        training_view=collect.training_view,
        model={
            **model,
            **now,
            "rescoring": {"only": config.only, "where": mask_settings(config.where, "where")},
            "previous_verifier": previous,
        },
        rollouts=plan.rollouts,
        input_rows=plan.input_rows,
    )


def _previous_verifier(model: Json) -> tuple[Json | None, Json]:
    """The settings of what scored the rollouts before, and the other settings in a manifest's `model`."""
    if isinstance(model.get("verifier"), dict):
        previous: Json | None = model["verifier"]
    else:
        previous = {name: value for name, value in model.items() if _is_of_verifier(name) and value} or None
    return previous, {name: value for name, value in model.items() if not _is_of_verifier(name)}


def _is_of_verifier(name: str) -> bool:
    return name in ("verifier", "resources_server") or name.startswith("verifiers.")


def _written(path: Path) -> FileState | None:
    return FileState.of(path) if path.exists() else None


def _report_changes(config: RescoreConfig, paths: OutputPaths, *, is_first: bool) -> None:
    """Print what changed, and add it to the summary file. An error here must not hide one that ended the run."""
    with suppress(InputError, OSError, ValueError):
        changes, agreement = _changes(paths, config.agreement_with)
        # Without a score before, there is nothing to compare.
        lines = [] if is_first else list(changes.lines())
        summary = {**loads(paths.summary.read_bytes()), "score_changes": changes.summary()}
        if agreement:
            lines += agreement.lines(config.agreement_with or "", "reward")
            summary["agreement_with"] = {"field": config.agreement_with, **agreement.summary()}
        for line in lines:
            log(line)
        write_json(paths.summary, summary)


def _changes(paths: OutputPaths, label_field: str | None) -> tuple[ScoreChanges, Agreement | None]:
    """The changes of the scores of all rollouts that were scored again, and the agreement with labels."""
    changes, agreement = ScoreChanges(), Agreement() if label_field else None
    for key, (_, _, row) in keyed_rows(paths.finished):
        reward = _number(row.get("reward"))
        if row.get(RESCORED):
            changes.add(key, _number(row.get(PREVIOUS_REWARD)), reward)
        if agreement and label_field:
            agreement.add(label_of(value_at(task_of(row), label_field)), reward)
    return changes, agreement


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
