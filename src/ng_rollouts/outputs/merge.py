"""Merge files of rollouts, such as shards, into one ordered file, and report duplicate and missing rollouts."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import BinaryIO

from ng_rollouts.console import counted
from ng_rollouts.errors import InputError
from ng_rollouts.jsonl import is_torn
from ng_rollouts.outputs.manifest import Manifest, differences, read_manifest, repeats_for
from ng_rollouts.outputs.paths import output_paths
from ng_rollouts.outputs.reader import FileState, open_rollouts, parse_row, task_value, value_digest
from ng_rollouts.storage.lock import holder_of
from ng_rollouts.types import RolloutKey, agent_of, key_of

_MAX_LISTED = 10
"""Number of rollouts or tasks that one message lists."""

_MAX_OPEN = 256
"""Files that are open at once. A folder of trajectories has a file for each rollout; many systems allow 1024."""


class RolloutIndex:
    """File and offset of every rollout. Of duplicates, the first is used.

    Attributes:
        keys: number of each rollout in order of reading, by its key. File, offset and agent are arrays in that order,
            so that a rollout takes 16 bytes in addition to its key.

    Raises:
        InputError: a file cannot be read, or a line is not a rollout.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self.keys: dict[RolloutKey, int] = {}
        self._offsets = array("q")
        self._file_numbers = array("i")
        self._agents = array("i")
        self._agent_numbers: dict[str, int] = {}
        self._manifests = [read_manifest(output_paths(str(file)).manifest) for file in files]
        self._states: list[FileState] = []
        self._duplicates: list[RolloutKey] = []
        self._file_problems: list[str] = []
        # For files without keys: the tasks by the digest of their value, and how many rollouts each has.
        self._tasks: dict[bytes, int] = {}
        self._rollouts_of = Counter[int]()
        for number, file in enumerate(files):
            self._read(number, file)

    def write(self, target: Path) -> None:
        """Write the rows to a file, ordered by key."""
        with closing(_OpenFiles(self._files, self._states)) as handles, target.open("wb") as output:
            for key in sorted(self.keys):
                number = self.keys[key]
                handle = handles.get(self._file_numbers[number])
                handle.seek(self._offsets[number])
                output.write(handle.readline().rstrip(b"\r\n") + b"\n")

    def problems(self) -> Iterator[str]:
        """Messages about duplicates, damaged files, shards of different runs, and missing shards and rollouts."""
        if self._duplicates:
            listed = _format_keys(self._duplicates)
            yield f"{counted(len(self._duplicates), 'duplicate rollout')}: {listed}; the first of each was kept"
        yield from self._file_problems
        yield from self._mismatched_shards()
        yield from sorted(self._missing_shards())
        by_task = list(self._missing_by_task())
        missing = sum(count for _, count in by_task)
        if by_task:
            listed = ", ".join(f"{task} ({count})" for task, count in by_task[:_MAX_LISTED])
            more = "" if len(by_task) <= _MAX_LISTED else ", ..."
            rollouts, tasks = counted(missing, "rollout"), counted(len(by_task), "task")
            yield f"{rollouts} of {tasks} {'is' if missing == 1 else 'are'} missing, by task: {listed}{more}"
        if of_absent_tasks := self._missing_of_absent_tasks(missing):
            present = {key.task_index for key in self.keys}
            first = next(task for task in count() if task not in present)
            missing_text = counted(of_absent_tasks, "rollout", "is missing", "are missing")
            yield f"{missing_text} from tasks that have no rows, starting with task {first}"

    def _missing_by_task(self) -> Iterator[tuple[int, int]]:
        """Index and number of missing rollouts of each task that has some rollouts, but not all.

        A task should have as many as the manifests plan for its agent. Without a manifest for every file, it should
        have as many as the largest task of its agent.
        """
        counts, highest, agents, largest = Counter[int](), dict[int, int](), dict[int, int](), Counter[int]()
        for (task, rollout), number in self.keys.items():
            agent = agents[task] = self._agents[number]
            counts[task] += 1
            highest[task] = max(highest.get(task, 0), rollout + 1)
            largest[agent] = max(largest[agent], rollout + 1)
        planned = self._planned_by_agent() or largest
        for task in sorted(counts):
            # A task can have more than planned: rows that share a task index add up.
            expected = max(highest[task], planned[agents[task]])
            if counts[task] < expected:
                yield task, expected - counts[task]

    def _missing_of_absent_tasks(self, missing: int) -> int:
        """Number of missing rollouts of tasks that have no row.

        It follows from the manifests if every file has one. Otherwise it is estimated from the gaps between task
        indices, unless more than half of the indices are missing: then they are sparse on purpose.

        Args:
            missing: number of missing rollouts of the other tasks.
        """
        plans = {(plan.rows_digest, plan.num_shards, plan.shard_index): plan for plan in self._manifests if plan}
        if all(self._manifests) and all(plan.rollouts for plan in plans.values() if plan.rows):
            # With one number of repeats, any shard's manifest gives the plan of the whole input, missing shards
            # included. With repeats by agent, it only gives its own.
            whole = {plan.rows_digest: plan for plan in plans.values() if isinstance(plan.num_repeats, int)}
            planned = sum(plan.input_rows * int(plan.num_repeats) for plan in whole.values())
            planned += sum(plan.rollouts for plan in plans.values() if plan.rows_digest not in whole)
            return max(0, planned - len(self.keys) - missing)
        tasks = {key.task_index for key in self.keys}
        gaps = max(tasks) + 1 - len(tasks)
        return gaps * (max(key.rollout_index for key in self.keys) + 1) if gaps <= len(tasks) else 0

    def _mismatched_shards(self) -> Iterator[str]:
        """Messages about shards whose manifest differs from that of the first shard."""
        shards = [
            (file, plan) for file, plan in zip(self._files, self._manifests, strict=True) if plan and plan.num_shards
        ]
        for file, plan in shards[1:]:
            first = shards[0][1]
            then = replace(plan, shard_index=first.shard_index)
            # A manifest only has the digest of all its rows, so inputs of different lengths count as different.
            digest = first.rows_digest if first.input_rows >= plan.input_rows else None
            labels = (f"in {file}", f"in {shards[0][0]}")
            if different := list(differences(then, first, digest, labels)):
                fix = "collect one of them again with the settings of the other, or leave it out of input_glob"
                yield f"{file} and {shards[0][0]} are of different runs: {'; '.join(different)}: {fix}"

    def _missing_shards(self) -> set[str]:
        present: dict[tuple[str, int], set[int]] = {}
        for plan in filter(None, self._manifests):
            if plan.num_shards is not None and plan.shard_index is not None:
                present.setdefault((plan.rows_digest, plan.num_shards), set()).add(plan.shard_index)
        missing = {number: set(range(number)) - indices for (_, number), indices in present.items()}
        return {
            f"of {number} shards, these are missing: {', '.join(map(str, sorted(indices)))}"
            for number, indices in missing.items()
            if indices
        }

    def manifest(self) -> Manifest | None:
        """The manifest of the merged output; None if a file has no manifest, or they differ."""
        whole = [
            replace(plan, rows=plan.input_rows, rollouts=0, shard_index=None, num_shards=None)
            for plan in self._manifests
            if plan
        ]
        same = len(whole) == len(self._files) and all(plan == whole[0] for plan in whole)
        if not same:
            return None
        repeats = whole[0].num_repeats
        return replace(whole[0], rollouts=whole[0].input_rows * repeats if isinstance(repeats, int) else 0)

    def _planned_by_agent(self) -> Counter[int] | None:
        """Rollouts per task by agent number, from the manifests; None if a file has no manifest."""
        planned = Counter[int]()
        for manifest in filter(None, self._manifests):
            for agent, number in self._agent_numbers.items():
                planned[number] = max(planned[number], repeats_for(manifest.num_repeats, agent) or 0)
        return planned if all(self._manifests) else None

    def _read(self, number: int, file: Path) -> None:
        offset = 0
        with open_rollouts(file) as lines:
            self._states.append(FileState.of(file))
            if holder := holder_of(lines.fileno()):
                self._file_problems.append(f"{file} is still being written by {holder}")
            for line_number, line in enumerate(lines, 1):
                if not line.endswith(b"\n") and is_torn(line):
                    self._file_problems.append(f"the last line of {file} is cut off, so its rollout is missing")
                elif line.strip():
                    key, agent = self._parse(file, line_number, line)
                    self._add(key, agent, number, offset)
                offset += len(line)

    def _parse(self, file: Path, number: int, line: bytes) -> tuple[RolloutKey, str]:
        """The key and the agent of a line. Rows without keys get new ones, as reading commands give them.

        Raises:
            InputError: the line is not a rollout, or some rows have keys and others do not.
        """
        row = parse_row(file, number, line)
        key = key_of(row)
        if (key is None) if self.keys and not self._tasks else (key is not None and self._tasks):
            problem = "some rollouts have _ng_task_index and _ng_rollout_index, and others do not"
            raise InputError(f"{file}, line {number}: {problem}: merge them apart")
        if key is None:
            digest = value_digest(task_value(row), len(self._offsets))
            task = self._tasks.setdefault(digest, len(self._tasks))
            key = RolloutKey(task, self._rollouts_of[task])
            self._rollouts_of[task] += 1
        return key, agent_of(row)

    def _add(self, key: RolloutKey, agent: str, file_number: int, offset: int) -> None:
        if key in self.keys:
            self._duplicates.append(key)
            return
        self.keys[key] = len(self._offsets)
        self._offsets.append(offset)
        self._file_numbers.append(file_number)
        self._agents.append(self._agent_numbers.setdefault(agent, len(self._agent_numbers)))


def _format_keys(keys: list[RolloutKey]) -> str:
    listed = [f"task {key.task_index} rollout {key.rollout_index}" for key in keys[:_MAX_LISTED]]
    return ", ".join(listed) + (", ..." if len(keys) > _MAX_LISTED else "")


class _OpenFiles:
    """The files of a merge, opened when they are needed."""

    def __init__(self, files: list[Path], states: list[FileState]) -> None:
        self._files = files
        self._states = states
        self._open: dict[int, tuple[BinaryIO, ExitStack]] = {}

    def get(self, number: int) -> BinaryIO:
        """The file with this number, open.

        Raises:
            InputError: it cannot be read, or has changed.
        """
        if number not in self._open:
            if len(self._open) >= _MAX_OPEN:
                self._close(next(iter(self._open)))
            self._states[number].check(self._files[number])
            stack = ExitStack()
            self._open[number] = stack.enter_context(open_rollouts(self._files[number])), stack
        return self._open[number][0]

    def close(self) -> None:
        """Close all files."""
        for number in list(self._open):
            self._close(number)

    def _close(self, number: int) -> None:
        self._open.pop(number)[1].close()
