"""The number of rollouts that a file should have: by its plan if that is known, else by its largest task."""

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
    """The planned number of rollouts.

    Attributes:
        of_task: maps a task index and an agent name to the number of rollouts of the task.
        total: number of rollouts of all tasks; None if it is not known.
    """

    of_task: Callable[[int, str], int]
    total: int | None = None


def expected_counts(source: Path, materialized_inputs: str | None, scanned: Scan) -> ExpectedCounts:
    """The expected counts of a file of rollouts.

    Sources in this order: `materialized_inputs`, the file's manifest, the materialized inputs next to the file, and the
    file itself.

    Args:
        materialized_inputs: path of a file with the planned rows, if the user named one.
        scanned: scan of the file.

    Raises:
        InputError: the planned rows cannot be read.
    """
    paths = output_paths(str(source))
    if materialized_inputs is not None:
        return _from_rows(Path(materialized_inputs).expanduser())
    if manifest := read_manifest(paths.manifest):
        return _from_manifest(manifest)
    if paths.materialized_inputs.exists():
        return _from_rows(paths.materialized_inputs)
    return ExpectedCounts(lambda _, agent: scanned.max_repeats.get(agent, 0))


def _from_rows(path: Path) -> ExpectedCounts:
    counts: Counter[int] = Counter()
    for file, number, row in rows_of([path]):
        index = row.get("_ng_task_index")
        if not isinstance(index, int):
            raise InputError(f"{file}, line {number}: not a materialized input: _ng_task_index is missing")
        counts[index] += 1
    return ExpectedCounts(lambda task_index, _: counts[task_index], counts.total())


def _from_manifest(manifest: Manifest) -> ExpectedCounts:
    repeats = manifest.num_repeats
    total = manifest.rollouts or None
    return ExpectedCounts(lambda _, agent: repeats_for(repeats, agent) or 0, total)
