"""`ng_aggregate_rollouts`: shards or runs put together in order, with one file of figures."""

from __future__ import annotations

import glob
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NoReturn

from ng_rollouts.console import say, tell
from ng_rollouts.errors import InputError
from ng_rollouts.figures import aggregate_metrics
from ng_rollouts.jsonlines import loads
from ng_rollouts.manifest import read_manifest, repeats_for
from ng_rollouts.outputs import OutputPaths, check_replaceable, move_aside, output_paths, remove, write_json
from ng_rollouts.records import Facts, Key, key_of
from ng_rollouts.rollout_files import agent_of, groups_of
from ng_rollouts.small_commands import main_of
from ng_rollouts.tally import tallied

_TOLD = 10
_SIDE_FILES = ("_failures.jsonl", "_incomplete.jsonl", "_materialized_inputs.jsonl", "_reward_profiling.jsonl")


@dataclass(frozen=True, kw_only=True)
class AggregationConfig:
    """Shards or runs by glob -> one file in order, and its aggregate metrics."""

    input_glob: str = field(metadata={"help": "Globs of rollout files, with commas between. Required."})
    output_jsonl_fpath: str = field(metadata={"help": "Where the rollouts go, in order. Required."})
    merge_shards: bool = field(default=True, metadata={"help": "Whether to write the rollouts, or only their figures."})
    answer_key: str | None = field(default=None, metadata={"help": "Field that majority@k goes by."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an existing output instead of moving it aside."})


def main() -> NoReturn:
    """`ng_aggregate_rollouts`."""
    main_of("ng_aggregate_rollouts", AggregationConfig, run)


def run(config: AggregationConfig) -> int:
    """Merge, and figure; the exit code is 1 if rollouts occur twice or are missing."""
    paths = output_paths(config.output_jsonl_fpath)
    check_replaceable(paths.output)
    sources = files_of(config.input_glob, besides=paths.output)
    index = Index(sources)
    if not index.keys:
        raise InputError(f"input_glob {config.input_glob} names files without rollouts")
    paths.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = paths.output.with_name(paths.output.name + ".merging")
    try:
        index.write(temporary)
        merged = _in_place(temporary, paths, config) if config.merge_shards else temporary
        write_json(paths.aggregate_metrics, aggregate_metrics(tallied(_by_agent(merged, config.answer_key))))
    finally:
        temporary.unlink(missing_ok=True)
    say(f"Merged {len(index.keys)} rollouts of {len(sources)} files")
    if config.merge_shards:
        say(f"Rollouts: {paths.output}")
    say(f"Aggregate metrics: {paths.aggregate_metrics}")
    complaints = list(index.complaints())
    for complaint in complaints:
        tell(f"error: {complaint}")
    return 1 if complaints else 0


def _in_place(written: Path, paths: OutputPaths, config: AggregationConfig) -> Path:
    """The output, written; one that was there is moved aside with what belongs to it, unless it may go."""
    if paths.output.exists() and not config.overwrite:
        tell(f"{paths.output} was there: moved to {move_aside(paths)}, with what belongs to it")
    remove(paths)
    written.replace(paths.output)
    return paths.output


def _by_agent(path: Path, answer_key: str | None) -> Iterator[tuple[int, str, list[Facts]]]:
    for group in groups_of(path, answer_key):
        for agent, facts in group.by_agent().items():
            yield group.task_index, agent, facts


def files_of(globs: str, besides: Path) -> list[Path]:
    """The rollout files that the globs name, side files and the output left out.

    Raises:
        InputError: there are none.
    """
    patterns = [str(Path(pattern.strip()).expanduser()) for pattern in globs.split(",")]
    names = {name for pattern in patterns for name in glob.glob(pattern)}  # noqa: PTH207 - absolute patterns, too
    files = [Path(name) for name in sorted(names) if not name.endswith(_SIDE_FILES) and name.endswith(".jsonl")]
    files = [file for file in files if file.resolve() != besides.resolve()]
    if not files:
        raise InputError(f"input_glob {globs} names no rollout files")
    return files


class Index:
    """Where each rollout is: keys in order, file and offset of each; the first of equals counts.

    Raises:
        InputError: a file cannot be read, or a line is no rollout.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self.keys: dict[Key, int] = {}
        self._offsets = array("q")
        self._file_numbers = array("i")
        self._agents = array("i")
        self._agent_numbers: dict[str, int] = {}
        self._manifests = [read_manifest(output_paths(str(file)).manifest) for file in files]
        self._twice: list[Key] = []
        for number, file in enumerate(files):
            self._read(number, file)

    def write(self, target: Path) -> None:
        """Write the rows in order."""
        handles = [file.open("rb") for file in self._files]
        try:
            with target.open("wb") as output:
                for key in sorted(self.keys):
                    place = self.keys[key]
                    handle = handles[self._file_numbers[place]]
                    handle.seek(self._offsets[place])
                    output.write(handle.readline().rstrip(b"\r\n") + b"\n")
        finally:
            for handle in handles:
                handle.close()

    def complaints(self) -> Iterator[str]:
        """What occurs twice, and which repeats of a task are missing."""
        if self._twice:
            listed = _listed(self._twice)
            yield f"{len(self._twice)} rollouts occur more than once: {listed}; the first of each was taken"
        lacking = list(self._lacking())
        owed = sum(count for _, count in lacking)
        if lacking:
            shown = ", ".join(f"{task} ({count})" for task, count in lacking[:_TOLD])
            more = "" if len(lacking) <= _TOLD else ", ..."
            yield f"{len(lacking)} tasks lack {owed} rollouts, by task: {shown}{more}"
        if not_seen := self._not_seen(owed):
            there = {key.task_index for key in self.keys}
            first = next(task for task in count() if task not in there)
            yield f"{not_seen} rollouts of tasks that are not there at all are missing, from task {first} on"

    def _lacking(self) -> Iterator[tuple[int, int]]:
        """Tasks that are there and not whole, and how many rollouts each lacks."""
        counts, most, agents, usual = Counter[int](), dict[int, int](), dict[int, int](), Counter[int]()
        for (task, rollout), place in self.keys.items():
            agent = agents[task] = self._agents[place]
            counts[task] += 1
            most[task] = max(most.get(task, 0), rollout + 1)
            usual[agent] = max(usual[agent], rollout + 1)
        planned = self._planned_by_agent() or usual
        for task in sorted(counts):
            expected = max(most[task], planned[agents[task]])
            if counts[task] < expected:
                yield task, expected - counts[task]

    def _not_seen(self, lacking: int) -> int:
        """Rollouts of whole tasks that are missing: by the manifests, else by gaps in the indices of what is dense."""
        plans = {manifest.rows_digest: manifest for manifest in self._manifests if manifest}
        if all(self._manifests) and all(isinstance(plan.num_repeats, int) for plan in plans.values()):
            planned = sum(plan.rows * int(plan.num_repeats) for plan in plans.values())
            return max(0, planned - len(self.keys) - lacking)
        tasks = {key.task_index for key in self.keys}
        gaps = max(tasks) + 1 - len(tasks)
        return gaps * (max(key.rollout_index for key in self.keys) + 1) if gaps <= len(tasks) else 0

    def _planned_by_agent(self) -> Counter[int] | None:
        """What the files' manifests say, where all have one: rollouts of a task, by agent."""
        planned = Counter[int]()
        for manifest in filter(None, self._manifests):
            for agent, number in self._agent_numbers.items():
                planned[number] = max(planned[number], repeats_for(manifest.num_repeats, agent) or 0)
        return planned if all(self._manifests) else None

    def _read(self, number: int, file: Path) -> None:
        try:
            lines = file.open("rb")
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from error
        offset = 0
        with lines:
            for line_number, line in enumerate(lines, 1):
                if line.strip():
                    self._note(*_named(file, line_number, line), number, offset)
                offset += len(line)

    def _note(self, key: Key, agent: str, number: int, offset: int) -> None:
        if key in self.keys:
            self._twice.append(key)
            return
        self.keys[key] = len(self._offsets)
        self._offsets.append(offset)
        self._file_numbers.append(number)
        self._agents.append(self._agent_numbers.setdefault(agent, len(self._agent_numbers)))


def _named(file: Path, number: int, line: bytes) -> tuple[Key, str]:
    """What names a rollout, and who answered it."""
    try:
        row = loads(line)
    except ValueError as error:
        raise InputError(f"{file}, line {number}: not JSON: {error}") from error
    key = key_of(row) if isinstance(row, dict) else None
    if key is None:
        raise InputError(f"{file}, line {number}: no _ng_task_index and _ng_rollout_index, so this is no rollout")
    return key, agent_of(row)


def _listed(keys: list[Key]) -> str:
    shown = [f"task {key.task_index} rollout {key.rollout_index}" for key in keys[:_TOLD]]
    return ", ".join(shown) + (", ..." if len(keys) > _TOLD else "")


if __name__ == "__main__":
    sys.exit(main())
