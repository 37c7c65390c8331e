"""Run one integration: `python -m ng_rollouts.integrations NAME OUTPUT PROJECT [live]`.

With `live`, stdin has the lines of `live.py`: running figures, and `finish` once the output is finished. It is a
socket, which takes a byte as the reply to figures that are logged.

The last line of stdout is the result, or the error if the exit code is 1. Lines before it come from the tracker's
library.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from ng_rollouts.outputs.paths import output_paths


def _run(name: str, output: Path, project: str, *, is_live: bool) -> str:
    """Run an integration; the line to report."""
    if name == "parquet":
        from ng_rollouts.integrations.parquet import write_parquet  # noqa: PLC0415 - needs pyarrow

        return write_parquet(output)
    if name == "report":
        from ng_rollouts.report.build import ViewConfig, build_page  # noqa: PLC0415

        return f"Page: {build_page(ViewConfig(input_jsonl_fpath=str(output)))}"
    from ng_rollouts.integrations.trackers import TRACKERS, TrackedRun, follow  # noqa: PLC0415

    paths = output_paths(str(output))
    run = TrackedRun.of(paths)
    tracker = TRACKERS[name](run, project)
    if is_live:
        return follow(tracker, sys.stdin.buffer, lambda: TrackedRun.of(paths), _reply)
    return tracker.finish(run)


def _reply() -> None:
    with suppress(OSError):  # the run has ended, which stdin will say
        os.write(sys.stdin.fileno(), b".")


if __name__ == "__main__":
    name, output, project, *live = sys.argv[1:]
    try:
        message = _run(name, Path(output), project, is_live=bool(live))
    # errors of any kind become one line, because `runner` reports the last line
    except Exception as error:
        # the newline in front ends a line that the library left open, such as a progress bar
        sys.stdout.write(f"\n{type(error).__name__}: {' '.join(str(error).split())}\n")
        sys.exit(1)
    sys.stdout.write(f"\n{message}\n")
