"""Finishing a journal in completion order, beside copying it: prints seconds as JSON. usage: FOLDER BYTES"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

from ng_rollouts.outputs.open_journal import open_new
from ng_rollouts.outputs.paths import OutputPaths

ROW = 4000
IN_FLIGHT = 1000


def copy(folder: Path) -> float:
    """Seconds that a synced copy of the journal takes."""
    started = time.monotonic()
    shutil.copyfile(folder / "journal.jsonl", folder / "copy.jsonl")
    with (folder / "copy.jsonl").open("rb") as file:
        os.fsync(file.fileno())
    seconds = time.monotonic() - started
    (folder / "copy.jsonl").unlink()
    return seconds


def main(folder: Path, size: int) -> None:
    count = size // (ROW + 1)
    row = b"x" * ROW
    waiting, chance, fresh = [], random.Random(1), iter(range(count))
    with open_new(OutputPaths(folder / "journal.jsonl"), count, overwrite=True) as journal:
        for position in fresh:
            waiting.append(position)
            if len(waiting) >= IN_FLIGHT:
                place = chance.randrange(IN_FLIGHT)
                waiting[place], waiting[-1] = waiting[-1], waiting[place]
                journal.append(waiting.pop(), row)
        for position in waiting:
            journal.append(position, row)
        journal.sync()
        before = [copy(folder) for _ in range(2)]
        started = time.monotonic()
        journal.finish([True] * count)
        finished = time.monotonic()
        after = [copy(folder) for _ in range(2)]
    print(json.dumps({"copies_s": [*before, *after], "finish_s": finished - started}))
    (folder / "journal.jsonl").unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
