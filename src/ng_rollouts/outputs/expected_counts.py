"""How many rollouts a file of them should have: as planned where that is known, else as many as any task has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ng_rollouts.errors import InputError
from ng_rollouts.outputs.manifest import Manifest, read_manifest, repeats_for
from ng_rollouts.outputs.paths import output_paths
from ng_rollouts.outputs.reader import Scan, rows_of


@dataclass(frozen=True, slots=True)
class ExpectedCounts:
    """What was planned.

    Attributes:
        of_task: rollouts of a task, by its index and agent.
        total: of all tasks; None if that is not known.
    """

    of_task: Callable[[int, str], int]
    total: int | None = None


def expected_counts(source: Path, materialized_inputs: str | None, scanned: Scan) -> ExpectedCounts:
    """By the planned rows that are given or lie beside the file, by its manifest, or by the file alone.

    Raises:
        InputError: the planned rows cannot be read.
    """
    paths = output_paths(str(source))
    if materialized_inputs is not None:
        return _by_rows(Path(materialized_inputs).expanduser())
    if manifest := read_manifest(paths.manifest):
        return _by_manifest(manifest)
    if paths.materialized_inputs.exists():
        return _by_rows(paths.materialized_inputs)
    return ExpectedCounts(lambda _, agent: scanned.most.get(agent, 0))


def _by_rows(path: Path) -> ExpectedCounts:
    counters: Counter[int] = Counter()
    for file, number, row in rows_of([path]):
        index = row.get("_ng_task_index")
        if not isinstance(index, int):
            raise InputError(f"{file}, line {number}: no _ng_task_index, so this is no materialized input")
        counters[index] += 1
    return ExpectedCounts(lambda task_index, _: counters[task_index], counters.total())


def _by_manifest(manifest: Manifest) -> ExpectedCounts:
    repeats = manifest.num_repeats
    total = manifest.rollouts or None
    return ExpectedCounts(lambda _, agent: repeats_for(repeats, agent) or 0, total)
