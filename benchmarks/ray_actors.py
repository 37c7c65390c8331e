#!/usr/bin/env python
"""Rollouts a second against Ray actors, and what the driver spends on one: python benchmarks/ray_actors.py [ROLLOUTS]

Driver, actors and stub share the machine's cores, so on a small one the figures are a floor; the
driver's own share, by its process time, is what tells how many actors one driver can feed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import installed
from harness import client_environment, stub, write_tasks
from programs import Programs

PARALLEL = 200
ARRANGEMENTS = (
    ("in this process", ()),
    *((f"{n} actors", ("+executor=ray", f"+executor.num_actors={n}", "+executor.num_cpus=0.1")) for n in (1, 2, 4)),
)


def measured(programs: Programs, url: str, rows: Path, *options: str) -> tuple[float, float]:
    """Rollouts a second, and microseconds of the driver's CPU for each."""
    command = [*programs.ours(url, rows, PARALLEL), *options]
    subprocess.run(command, check=True, capture_output=True, cwd=programs.folder, env=client_environment())
    summary = json.loads((programs.folder / "ours_summary.json").read_text())
    rate = summary["attempts_per_s"]
    return rate, 1e6 * summary["client_busy"] / rate


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as name, stub(latency=0.02) as url:
        programs = Programs(Path(name), installed("ray"))
        rows = write_tasks(programs.folder, count)
        for label, options in ARRANGEMENTS:
            rate, driver_us = measured(programs, url, rows, *options)
            print(f"{label:<16} {rate:7.0f} rollouts/s, driver {driver_us:4.0f} µs each")


if __name__ == "__main__":
    main()
