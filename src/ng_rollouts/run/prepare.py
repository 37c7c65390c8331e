"""Prepares a run: everything that can be checked before the first request is sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ng_rollouts.agents.source_agents import source_agents
from ng_rollouts.agents.urls import parse_urls
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import counted, log
from ng_rollouts.errors import ConfigError
from ng_rollouts.executors.steering import sources_of
from ng_rollouts.inputs.estimates import Rollouts, dispatch_order
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.routes import Routes
from ng_rollouts.inputs.sampling_warnings import warnings
from ng_rollouts.inputs.shards import shard_of
from ng_rollouts.inputs.sources import check_source, local_input
from ng_rollouts.inputs.task_file import TaskFile
from ng_rollouts.inputs.task_parser import Task, TaskParser
from ng_rollouts.integrations.live import LiveTrackers
from ng_rollouts.integrations.runner import products_of
from ng_rollouts.outputs.manifest import Manifest, read_manifest
from ng_rollouts.outputs.path_checks import check_output, check_replaceable
from ng_rollouts.outputs.paths import OutputPaths, output_paths
from ng_rollouts.outputs.reader import check_readable
from ng_rollouts.outputs.resume import check_same_run, files_of, manifest_of
from ng_rollouts.run.budget import Budget
from ng_rollouts.run.gates import check_health_settings
from ng_rollouts.run.status_file import is_replaceable_status
from ng_rollouts.templates import load_template
from ng_rollouts.types import Rollout

if TYPE_CHECKING:
    from ng_rollouts.outputs.upload import Upload


class Tasks(Protocol):
    """Where the rollouts of a run come from: a file of tasks, or rollouts that are scored again."""

    def plan(self, first_rows: int | None = None) -> Plan:
        """Check every row, and count the rollouts."""
        ...

    def check(self, check: Callable[[Task], None]) -> None:
        """Call a function with every task."""
        ...

    def rollouts(self, plan: Plan, positions: AbstractSet[int] | None = None) -> Iterator[Rollout]:
        """Every planned rollout, in the order of the finished output; with `positions`, only those at these."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """A run that has been checked and can begin. Its tasks can be read while the block of `prepare` lasts.

    Attributes:
        tasks: the input.
        plan: the rollouts to collect.
        paths: the output and its side files.
        manifest: the fingerprint of this run.
        prior_manifest: that of the output to resume, if there is one.
        upload: the remote copy of the output, with `upload_to`.
        budget: prices and token budget.
        dispatched: yields the planned rollouts in the order in which they are sent.
        trackers: the experiment trackers that follow the run.
        is_rescoring: whether the tasks are rollouts of an earlier run, so that no model is asked for answers.
    """

    tasks: Tasks
    plan: Plan
    paths: OutputPaths
    manifest: Manifest
    prior_manifest: Manifest | None
    upload: Upload | None
    budget: Budget
    dispatched: Rollouts
    trackers: LiveTrackers
    is_rescoring: bool = False


def check_values(config: CollectConfig) -> None:
    """Check the values that a configuration alone does not check, and the files that it names.

    Raises:
        UsageError: a value is wrong, or a file does not exist.
    """
    check_health_settings(config)
    check_source("input_jsonl_fpath", config.input_jsonl_fpath)
    if config.prompt_config:
        check_source("prompt_config", config.prompt_config)
    if config.agent_url is not None:
        parse_urls(config.agent_url, "agent_url")
    sources_of(config.engine_metrics_url, ())
    if config.dispatch_from:
        check_readable("dispatch_from", Path(config.dispatch_from).expanduser(), follows=True)


@contextmanager
def prepare(config: CollectConfig) -> Iterator[PreparedRun]:
    """Check the configuration, the input and the output.

    Raises:
        UsageError: something is wrong that can be known before the first request.
    """
    check_values(config)
    shard = shard_of(config, os.environ)
    output = shard.output_path(config.output_jsonl_fpath) if shard else config.output_jsonl_fpath
    paths = output_paths(output, products_of(config.export, report=config.report))
    with local_input(config.input_jsonl_fpath) as source:
        check_output(paths, (source, Path(config.input_jsonl_fpath).expanduser()), files_of(config))
        _check_status_file(config, paths, source)
        upload = _upload(config.upload_to, paths, config.input_jsonl_fpath) if config.upload_to else None
        if upload and config.resume_from_cache and not config.dry_run and upload.fetch():
            log(f"{paths.finished} is missing: copied it from {upload.folder.url}")
        prior_manifest = read_manifest(paths.manifest) if config.resume_from_cache else None
        tasks = TaskFile(
            path=source,
            parser=_task_parser(config),
            limit=config.limit,
            display_name=config.input_jsonl_fpath,
            shard=shard,
        )
        # The input may have grown since the earlier command: the plan has a digest of as many rows as it had then, to
        # check that these are unchanged.
        plan = tasks.plan(prior_manifest.input_rows if prior_manifest else None)
        manifest = manifest_of(config, tasks, plan)
        if prior_manifest:
            check_same_run(paths, prior_manifest, manifest, plan)
        if shard:
            rows = f"{plan.rows} of {counted(plan.input_rows, 'row')}"
            log(f"shard {shard.index} of {shard.count}: {rows}, into {paths.finished}")
        for warning in warnings(config, plan):
            log(f"warning: {warning}")
        yield PreparedRun(
            tasks=tasks,
            plan=plan,
            paths=paths,
            manifest=manifest,
            prior_manifest=prior_manifest,
            upload=upload,
            budget=Budget(config.price_per_million, config.max_total_tokens, config.judge_price_per_million),
            dispatched=dispatch_order(config, tasks, plan),
            trackers=LiveTrackers(config.export, paths.output, config.export_project),
        )


def _task_parser(config: CollectConfig) -> TaskParser:
    agent_map = {**config.agent_map, **({"_default": config.agent_name} if config.agent_name else {})}
    return TaskParser(
        overrides=config.responses_create_params,
        routes=Routes(
            agent_map=agent_map,
            fan_out=config.fan_out,
            agent_of_source=source_agents(config),
            serves_all=config.agent_url is not None or config.policy_base_url is not None,
            repeats=config.num_repeats,
        ),
        environment_routes=config.environment_server_routes,
        flattens=config.policy_base_url is not None and config.agent_url is None,
        add_seed=config.num_repeats_add_seed,
        template=load_template(config.prompt_config) if config.prompt_config else None,
    )


def _check_status_file(config: CollectConfig, paths: OutputPaths, source: Path) -> None:
    """Check that the status file, which is replaced every second and removed at the end, is not another file.

    Raises:
        ConfigError: it is the input, the output or a side file, has other content, or cannot be written.
        OutputError: it is a folder, a device or a pipe.
    """
    status_file = Path(config.status_file or paths.status).expanduser()
    check_replaceable(status_file, "status_file")
    if status_file.is_symlink():
        raise ConfigError(f"status_file {status_file} is a link: choose a different name, or remove it")
    if status_file.resolve() in {path.resolve() for path in (source, *paths.all)}:
        raise ConfigError(f"status_file {status_file} is another file of the run: choose a different name")
    is_named = config.status_file is not None
    if is_named and (not status_file.parent.is_dir() or not os.access(status_file.parent, os.W_OK)):
        raise ConfigError(f"status_file {status_file} cannot be written: choose a file in an existing folder")
    if not is_replaceable_status(status_file):
        raise ConfigError(f"status_file {status_file} exists and is not a status file: choose a different name")


def _upload(upload_to: str, paths: OutputPaths, source: str) -> Upload:
    from ng_rollouts.outputs.upload import upload_of  # noqa: PLC0415 - few runs need it

    return upload_of(upload_to, paths, source)
