"""`ng_aggregate_rollouts`: shards or runs put together in order, with one file of figures."""

from __future__ import annotations

import glob
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ng_rollouts.console import say, tell
from ng_rollouts.errors import InputError
from ng_rollouts.figures import aggregate_metrics
from ng_rollouts.jsonlines import loads
from ng_rollouts.outputs import output_paths, write_json
from ng_rollouts.records import Key, key_of
from ng_rollouts.rollout_files import groups_of
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


def main() -> NoReturn:
    """`ng_aggregate_rollouts`."""
    main_of("ng_aggregate_rollouts", AggregationConfig, run)


def run(config: AggregationConfig) -> int:
    """Merge, and figure; the exit code is 1 if rollouts occur twice or are missing."""
    paths = output_paths(config.output_jsonl_fpath)
    sources = files_of(config.input_glob, besides=paths.output)
    index = Index(sources)
    paths.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = paths.output.with_name(paths.output.name + ".merging")
    merged = temporary if not config.merge_shards else paths.output
    index.write(temporary)
    if config.merge_shards:
        temporary.replace(paths.output)
    groups = ((group.task_index, group.agent, group.facts) for group in groups_of(merged, config.answer_key))
    write_json(paths.aggregate_metrics, aggregate_metrics(tallied(groups)))
    temporary.unlink(missing_ok=True)
    say(f"Merged {len(index.keys)} rollouts of {len(sources)} files")
    if config.merge_shards:
        say(f"Rollouts: {paths.output}")
    say(f"Aggregate metrics: {paths.aggregate_metrics}")
    complaints = list(index.complaints())
    for complaint in complaints:
        tell(f"error: {complaint}")
    return 1 if complaints else 0


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
        most: dict[int, int] = {}
        counts: dict[int, int] = {}
        for task, rollout in self.keys:
            most[task] = max(most.get(task, 0), rollout + 1)
            counts[task] = counts.get(task, 0) + 1
        usual = max(most.values(), default=0)
        lacking = [task for task in range(max(most, default=-1) + 1) if counts.get(task, 0) < usual]
        if lacking:
            shown = ", ".join(map(str, lacking[:_TOLD])) + ("" if len(lacking) <= _TOLD else ", ...")
            yield f"{len(lacking)} tasks have fewer than {usual} rollouts: {shown}"

    def _read(self, number: int, file: Path) -> None:
        try:
            lines = file.open("rb")
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from error
        offset = 0
        with lines:
            for line_number, line in enumerate(lines, 1):
                if line.strip():
                    self._note(_key(file, line_number, line), number, offset)
                offset += len(line)

    def _note(self, key: Key, number: int, offset: int) -> None:
        if key in self.keys:
            self._twice.append(key)
            return
        self.keys[key] = len(self._offsets)
        self._offsets.append(offset)
        self._file_numbers.append(number)


def _key(file: Path, number: int, line: bytes) -> Key:
    try:
        row = loads(line)
    except ValueError as error:
        raise InputError(f"{file}, line {number}: not JSON: {error}") from error
    key = key_of(row) if isinstance(row, dict) else None
    if key is None:
        raise InputError(f"{file}, line {number}: no _ng_task_index and _ng_rollout_index, so this is no rollout")
    return key


def _listed(keys: list[Key]) -> str:
    shown = [f"task {key.task_index} rollout {key.rollout_index}" for key in keys[:_TOLD]]
    return ", ".join(shown) + (", ..." if len(keys) > _TOLD else "")


if __name__ == "__main__":
    sys.exit(main())
