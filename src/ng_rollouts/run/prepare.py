"""What is asked for -> what is to be collected, into which files: all that can be known before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import log
from ng_rollouts.errors import ConfigError
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.sampling_warnings import warnings
from ng_rollouts.inputs.shards import shard_of
from ng_rollouts.inputs.sources import readable_twice
from ng_rollouts.inputs.task_file import TaskFile
from ng_rollouts.inputs.task_parser import TaskParser
from ng_rollouts.outputs.manifest import Manifest, read_manifest
from ng_rollouts.outputs.paths import OutputPaths, check_output, output_paths
from ng_rollouts.outputs.resume import check_same_run, manifest_of
from ng_rollouts.outputs.upload import Upload, upload_of
from ng_rollouts.templates import load_template


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """The tasks, what is to be collected of them, and where it goes; the tasks can be read while the block lasts."""

    tasks: TaskFile
    plan: Plan
    paths: OutputPaths
    manifest: Manifest
    upload: Upload | None


@contextmanager
def prepare(config: CollectConfig) -> Iterator[PreparedRun]:
    """Check what is asked for, and have it ready.

    Raises:
        UsageError: something is wrong that can be known before anything is sent.
    """
    shard = shard_of(config, os.environ)
    paths = output_paths(shard.named(config.output_jsonl_fpath) if shard else config.output_jsonl_fpath)
    with readable_twice(config.input_jsonl_fpath) as source:
        check_output(paths, (source, Path(config.input_jsonl_fpath).expanduser()))
        _check_status_file(config, paths, source)
        upload = upload_of(config.upload_to, paths, config.input_jsonl_fpath) if config.upload_to else None
        if upload and config.resume_from_cache and upload.fetch():
            log(f"there was no {paths.finished}: what {upload.folder.url} has of it was copied here")
        known = read_manifest(paths.manifest) if config.resume_from_cache else None
        tasks = TaskFile(
            path=source,
            recipe=_recipe(config),
            limit=config.limit,
            shown_as=config.input_jsonl_fpath,
            shard=shard,
        )
        plan = tasks.plan(known.input_rows if known else None)
        manifest = manifest_of(config, tasks, plan)
        if known:
            check_same_run(paths, known, manifest, plan)
        if shard:
            log(f"shard {shard.index} of {shard.count}: {plan.rows} of {plan.input_rows} rows, into {paths.finished}")
        for warning in warnings(config, plan):
            log(f"warning: {warning}")
        yield PreparedRun(tasks, plan, paths, manifest, upload)


def _recipe(config: CollectConfig) -> TaskParser:
    return TaskParser(
        overrides=config.responses_create_params,
        agent_name=config.agent_name,
        serves_all=config.agent_url is not None or config.policy_base_url is not None,
        repeats=config.num_repeats,
        add_seed=config.num_repeats_add_seed,
        template=load_template(config.prompt_config) if config.prompt_config else None,
    )


def _check_status_file(config: CollectConfig, paths: OutputPaths, source: Path) -> None:
    """The status file is replaced all the time, and removed: it had better be nothing else.

    Raises:
        ConfigError: it is the input, the output or a file that belongs to it, or cannot be written.
    """
    if config.status_file is None:
        return
    wanted = Path(config.status_file).expanduser()
    if wanted.resolve() in {path.resolve() for path in (source, *paths.all)}:
        raise ConfigError(f"status_file {config.status_file} is a file of the run itself: name another")
    if wanted.is_dir() or not wanted.parent.is_dir() or not os.access(wanted.parent, os.W_OK):
        raise ConfigError(f"status_file {config.status_file} cannot be written: name a file in a folder that is there")
