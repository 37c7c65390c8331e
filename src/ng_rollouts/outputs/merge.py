"""Files of rollouts -> one in order: where each rollout is, what occurs twice, what is missing by the plan."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

from ng_rollouts.errors import InputError
from ng_rollouts.jsonl import is_torn, loads
from ng_rollouts.outputs.manifest import Manifest, differences, read_manifest, repeats_for
from ng_rollouts.outputs.paths import output_paths
from ng_rollouts.outputs.reader import open_rollouts
from ng_rollouts.storage.compression import open_decompressed
from ng_rollouts.storage.lock import holder_of
from ng_rollouts.types import RolloutKey, agent_of, key_of

_TOLD = 10


class RolloutIndex:
    """Where each rollout is: keys in order, file and offset of each; the first of equals counts.

    Raises:
        InputError: a file cannot be read, or a line is no rollout.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self.keys: dict[RolloutKey, int] = {}
        self._offsets = array("q")
        self._file_numbers = array("i")
        self._agents = array("i")
        self._agent_numbers: dict[str, int] = {}
        self._manifests = [read_manifest(output_paths(str(file)).manifest) for file in files]
        self._twice: list[RolloutKey] = []
        self._oddities: list[str] = []
        for number, file in enumerate(files):
            self._read(number, file)

    def write(self, target: Path) -> None:
        """Write the rows in order."""
        with ExitStack() as stack:
            handles = [stack.enter_context(open_decompressed(file)) for file in self._files]
            output = stack.enter_context(target.open("wb"))
            for key in sorted(self.keys):
                place = self.keys[key]
                handle = handles[self._file_numbers[place]]
                handle.seek(self._offsets[place])
                output.write(handle.readline().rstrip(b"\r\n") + b"\n")

    def problems(self) -> Iterator[str]:
        """What occurs twice, and which repeats of a task are missing."""
        if self._twice:
            listed = _listed(self._twice)
            yield f"{len(self._twice)} rollouts occur more than once: {listed}; the first of each was taken"
        yield from self._oddities
        yield from self._unlike()
        yield from sorted(self._shards_not_there())
        missing = list(self._missing())
        remaining = sum(count for _, count in missing)
        if missing:
            shown = ", ".join(f"{task} ({count})" for task, count in missing[:_TOLD])
            more = "" if len(missing) <= _TOLD else ", ..."
            yield f"{len(missing)} tasks lack {remaining} rollouts, by task: {shown}{more}"
        if not_seen := self._not_seen(remaining):
            there = {key.task_index for key in self.keys}
            first = next(task for task in count() if task not in there)
            yield f"{not_seen} rollouts of tasks that are not there at all are missing, from task {first} on"

    def _missing(self) -> Iterator[tuple[int, int]]:
        """Tasks that are there and not whole, and how many rollouts each lacks."""
        counters, most, agents, usual = Counter[int](), dict[int, int](), dict[int, int](), Counter[int]()
        for (task, rollout), place in self.keys.items():
            agent = agents[task] = self._agents[place]
            counters[task] += 1
            most[task] = max(most.get(task, 0), rollout + 1)
            usual[agent] = max(usual[agent], rollout + 1)
        planned = self._planned_by_agent() or usual
        for task in sorted(counters):
            expected = max(most[task], planned[agents[task]])
            if counters[task] < expected:
                yield task, expected - counters[task]

    def _not_seen(self, missing: int) -> int:
        """Rollouts of whole tasks that are missing: by the manifests, else by gaps in the indices of what is dense."""
        plans = {(plan.rows_digest, plan.num_shards, plan.shard_index): plan for plan in self._manifests if plan}
        if all(self._manifests) and all(plan.rollouts for plan in plans.values() if plan.rows):
            whole = {plan.rows_digest: plan for plan in plans.values() if isinstance(plan.num_repeats, int)}
            planned = sum(plan.input_rows * int(plan.num_repeats) for plan in whole.values())
            planned += sum(plan.rollouts for plan in plans.values() if plan.rows_digest not in whole)
            return max(0, planned - len(self.keys) - missing)
        tasks = {key.task_index for key in self.keys}
        gaps = max(tasks) + 1 - len(tasks)
        return gaps * (max(key.rollout_index for key in self.keys) + 1) if gaps <= len(tasks) else 0

    def _unlike(self) -> Iterator[str]:
        """Shards that were asked something else than the first."""
        shards = [
            (file, plan) for file, plan in zip(self._files, self._manifests, strict=True) if plan and plan.num_shards
        ]
        for file, plan in shards[1:]:
            first = shards[0][1]
            then = replace(plan, shard_index=first.shard_index)
            digest = first.rows_digest if first.input_rows >= plan.input_rows else None
            if found := list(differences(then, first, digest)):
                yield f"{file} (then) was collected for something else than {shards[0][0]} (now): {'; '.join(found)}"

    def _shards_not_there(self) -> set[str]:
        there: dict[tuple[str, int], set[int]] = {}
        for plan in filter(None, self._manifests):
            if plan.num_shards is not None and plan.shard_index is not None:
                there.setdefault((plan.rows_digest, plan.num_shards), set()).add(plan.shard_index)
        absent = {number: set(range(number)) - indices for (_, number), indices in there.items()}
        return {
            f"of {n} shards {', '.join(map(str, sorted(gone)))} are not there" for n, gone in absent.items() if gone
        }

    def manifest(self) -> Manifest | None:
        """What all of the files together were collected for; None if they do not tell, or differ."""
        whole = [
            replace(plan, rows=plan.input_rows, rollouts=0, shard_index=None, num_shards=None)
            for plan in self._manifests
            if plan
        ]
        alike = len(whole) == len(self._files) and all(plan == whole[0] for plan in whole)
        if not alike:
            return None
        repeats = whole[0].num_repeats
        return replace(whole[0], rollouts=whole[0].input_rows * repeats if isinstance(repeats, int) else 0)

    def _planned_by_agent(self) -> Counter[int] | None:
        """What the files' manifests say, where all have one: rollouts of a task, by agent."""
        planned = Counter[int]()
        for manifest in filter(None, self._manifests):
            for agent, number in self._agent_numbers.items():
                planned[number] = max(planned[number], repeats_for(manifest.num_repeats, agent) or 0)
        return planned if all(self._manifests) else None

    def _read(self, number: int, file: Path) -> None:
        offset = 0
        with open_rollouts(file) as lines:
            if holder := holder_of(lines.fileno()):
                self._oddities.append(f"{file} is still being written, by {holder}")
            for line_number, line in enumerate(lines, 1):
                if not line.endswith(b"\n") and is_torn(line):
                    self._oddities.append(f"the last line of {file} is torn, so its rollout is missing")
                elif line.strip():
                    self._note(*_named(file, line_number, line), number, offset)
                offset += len(line)

    def _note(self, key: RolloutKey, agent: str, number: int, offset: int) -> None:
        if key in self.keys:
            self._twice.append(key)
            return
        self.keys[key] = len(self._offsets)
        self._offsets.append(offset)
        self._file_numbers.append(number)
        self._agents.append(self._agent_numbers.setdefault(agent, len(self._agent_numbers)))


def _named(file: Path, number: int, line: bytes) -> tuple[RolloutKey, str]:
    """What names a rollout, and who answered it."""
    try:
        row = loads(line)
    except ValueError as error:
        raise InputError(f"{file}, line {number}: not JSON: {error}") from error
    key = key_of(row) if isinstance(row, dict) else None
    if key is None:
        raise InputError(f"{file}, line {number}: no _ng_task_index and _ng_rollout_index, so this is no rollout")
    return key, agent_of(row)


def _listed(keys: list[RolloutKey]) -> str:
    shown = [f"task {key.task_index} rollout {key.rollout_index}" for key in keys[:_TOLD]]
    return ", ".join(shown) + (", ..." if len(keys) > _TOLD else "")
