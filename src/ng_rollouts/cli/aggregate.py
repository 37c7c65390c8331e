"""`ng_aggregate_rollouts`: merge shards or runs into one ordered file, and compute its aggregate metrics."""

from __future__ import annotations

import glob
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ng_rollouts.cli.simple_command import run_command
from ng_rollouts.config.fields import REQUIRED, check_fields, param
from ng_rollouts.config.validation import zero_names
from ng_rollouts.console import counted, log, print_json, print_result, prints_only_json
from ng_rollouts.errors import InputError
from ng_rollouts.metrics.group_aggregator import AgentMetrics, aggregate_groups
from ng_rollouts.metrics.nemo_gym import aggregate_metrics, score_line
from ng_rollouts.outputs.counted_as_zero import ZeroRules, added_members, with_members
from ng_rollouts.outputs.manifest import write_manifest
from ng_rollouts.outputs.merge import RolloutIndex
from ng_rollouts.outputs.path_checks import check_output, check_side_files, writable
from ng_rollouts.outputs.paths import OutputPaths, back_up_output, has_content, output_paths
from ng_rollouts.outputs.reader import check_regular, groups_of, holds_trajectory
from ng_rollouts.storage.atomic import back_up, remove_leftovers, replacing, write_json
from ng_rollouts.storage.compression import compress_in_place, plain_name
from ng_rollouts.storage.lock import locked
from ng_rollouts.types import RolloutStats

_SIDE_FILES = (
    "_failures.jsonl",
    "_incomplete.jsonl",
    "_materialized_inputs.jsonl",
    "_reward_profiling.jsonl",
    "_rollout_verdicts.jsonl",
)
"""Endings of files that a glob such as `run_*.jsonl` also matches, but that are not outputs."""


@dataclass(frozen=True, kw_only=True)
class AggregationConfig:
    """Merge files of rollouts, such as shards, into one ordered file with aggregate metrics."""

    input_glob: str = param(REQUIRED, "Glob patterns of rollout files, separated by commas.")
    output_jsonl_fpath: str = param(REQUIRED, "Merged file, in order.")
    merge_shards: bool = param(True, "Write the merged file; false writes only the metrics.")
    answer_key: str | None = param(None, "Field whose majority counts for majority@k (null: extracted_answer).")
    count_as_zero: str | None = param(
        None,
        "Rollouts that count with a reward of 0: `failed`, `masked`, `missing`, failure classes, separated by commas.",
    )
    count_failure_classes_as_zero: str | None = param(
        None, "NeMo Gym's name: failure classes to add to count_as_zero, separated by commas."
    )
    count_missing_rollouts_as_zero: bool = param(False, "NeMo Gym's name: add `missing` to count_as_zero.")
    overwrite: bool = param(False, "Replace an existing output. By default it is renamed to <output>.1, .2 and so on.")
    quiet: bool = param(False, "Print JSON alone to stdout, and errors alone to stderr.")

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def zero_rules(self) -> ZeroRules:
        """Which rollouts count as 0."""
        classes, missing = self.count_failure_classes_as_zero, self.count_missing_rollouts_as_zero
        return ZeroRules.of(zero_names(self.count_as_zero, classes, missing=missing))


def main() -> NoReturn:
    """Run `ng_aggregate_rollouts`."""
    example = "+input_glob='r_shard_*.jsonl' +output_jsonl_fpath=rollouts.jsonl"
    run_command("ng_aggregate_rollouts", AggregationConfig, run, example=example)


def run(config: AggregationConfig) -> int:
    """Merge the files, compute the metrics, and return the exit code: 1 if rollouts occur twice or are missing.

    Raises:
        InputError: no file matches, or the files have no rollouts.
        OutputError: the output cannot be written.
    """
    paths = output_paths(config.output_jsonl_fpath)
    sources = rollout_files(config.input_glob, exclude=paths.names)
    check_output(paths, sources)
    for source in sources:
        check_regular("input_glob", source)
        check_side_files(output_paths(str(source)))
    index = RolloutIndex(sources)
    if not index.keys:
        raise InputError(f"input_glob {config.input_glob} matches only files without rollouts")
    paths.output.parent.mkdir(parents=True, exist_ok=True)
    with writable(paths.finished), locked(paths.output):
        agents = _write(paths, sources, index, config)
    print_result(f"Merged {counted(len(index.keys), 'rollout')} of {counted(len(sources), 'file')}")
    if config.merge_shards:
        print_result(f"Rollouts: {paths.finished}")
    print_result(f"Aggregate metrics: {paths.aggregate_metrics}")
    for name, metrics in agents.items():
        line = score_line(metrics.stats, metrics.stats.coverage)
        print_result(f"{name}: {line}" if len(agents) > 1 else line)
    problems = list(index.problems())
    if prints_only_json():
        print_json({"rollouts": len(index.keys), "files": len(sources), "problems": problems})
    for outcome, path in (("were set aside", paths.incomplete), ("failed", paths.failures)):
        if problems and config.merge_shards and path.exists():
            log(f"some of the missing rollouts {outcome}: they are in {path}")
    for problem in problems:
        log(f"warning: {problem}")
    if problems:
        log(f"error: {paths.finished if config.merge_shards else paths.aggregate_metrics} has the problems above")
    return 1 if problems else 0


def _write(
    paths: OutputPaths, sources: list[Path], index: RolloutIndex, config: AggregationConfig
) -> dict[str, AgentMetrics]:
    """Write the merged file with its side files, or only its metrics; the metrics of each agent."""
    remove_leftovers(*paths.all)
    # An existing output is renamed only after the merged file is complete, and metrics are computed from that file.
    # An error on the way leaves everything as it was.
    with replacing(paths.finished) as temporary:
        index.write(temporary)
        agents = aggregate_groups(_groups(temporary, sources, index, config))
        metrics = aggregate_metrics(agents)
        if config.merge_shards:
            compress_in_place(temporary, paths.finished)
            _back_up_existing(paths, config)
        # Without a temporary file, `replacing` leaves an existing output as it is.
        else:
            temporary.unlink()
    if config.merge_shards:
        _remove_stale_side_files(paths)
        _write_side_files(paths, sources, index)
    elif has_content(paths.aggregate_metrics) and not config.overwrite:
        log(f"{paths.aggregate_metrics} exists: renamed to {back_up(paths.aggregate_metrics)}")
    write_json(paths.aggregate_metrics, metrics)
    if counted := sum((each.stats.counted_as_zero for each in agents.values()), Counter[str]()):
        log(f"counted with reward 0: {', '.join(f'{count} {reason}' for reason, count in counted.most_common())}")
    return agents


def _back_up_existing(paths: OutputPaths, config: AggregationConfig) -> None:
    """Rename an existing output and its side files, unless they may be replaced."""
    if any(map(has_content, paths.all)) and not config.overwrite:
        backup = back_up_output(paths)
        log(f"{backup.with_suffix('')} exists: renamed to {backup}, with its side files")


def _remove_stale_side_files(paths: OutputPaths) -> None:
    """Remove side files of an earlier output, which would be read as if they belonged to the merged one."""
    for path in paths.all:
        if path != paths.finished:
            path.unlink(missing_ok=True)


def _write_side_files(paths: OutputPaths, sources: list[Path], index: RolloutIndex) -> None:
    """Write the side files that a resume of the merged output reads: manifest, incomplete groups and failures."""
    if manifest := index.manifest():
        write_manifest(paths.manifest, manifest)
    # NeMo Gym's collector leaves an empty failures file, which would make an empty one here.
    outputs = [output_paths(str(source)) for source in sources]
    if incomplete := [each.incomplete for each in outputs if has_content(each.incomplete)]:
        RolloutIndex(incomplete).write(paths.incomplete)
    if failures := [each.failures for each in outputs if has_content(each.failures)]:
        with paths.failures.open("wb") as file:
            for each in failures:
                with each.open("rb") as part:
                    shutil.copyfileobj(part, file)


def _groups(
    path: Path, sources: list[Path], index: RolloutIndex, config: AggregationConfig
) -> Iterator[tuple[int, str, list[RolloutStats]]]:
    """Task index, agent and statistics of each group of the merged file, with the rollouts that count as 0."""
    rules = config.zero_rules
    outputs = [output_paths(str(source)) for source in sources]
    added = added_members(rules, outputs, index.keys, config.answer_key) if rules.adds_rollouts else {}
    return with_members(groups_of(path, config.answer_key), rules, added)


def rollout_files(globs: str, exclude: Iterable[Path]) -> list[Path]:
    """The files that match the globs, sorted by name, without side files.

    Args:
        globs: patterns, separated by commas.
        exclude: files to leave out, such as the output of an earlier merge.

    Raises:
        InputError: no file matches.
    """
    patterns = [str(Path(pattern.strip()).expanduser()) for pattern in globs.split(",")]
    # A set, because patterns can match the same file.
    names = {name for pattern in patterns for name in glob.glob(pattern)}  # noqa: PTH207 - Path.glob takes no absolute patterns
    files = [Path(name) for name in sorted(names) if _is_rollout_file(Path(name))]
    excluded = {path.resolve() for path in exclude}
    files = [file for file in files if file.resolve() not in excluded]
    if not files:
        raise InputError(f"input_glob {globs} does not match any file of rollouts")
    return files


def _is_rollout_file(path: Path) -> bool:
    name = plain_name(path).name
    if name.endswith(".json"):  # most of these are metrics and summaries
        return path.is_file() and holds_trajectory(path)
    return name.endswith(".jsonl") and not name.endswith(_SIDE_FILES)


if __name__ == "__main__":
    sys.exit(main())
