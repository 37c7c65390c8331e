"""One exporter, in a process of its own: NAME OUTPUT PROJECT -> a last line that says where things went."""

from __future__ import annotations

import sys
from pathlib import Path

from ng_rollouts.outputs.paths import output_paths


def _main(name: str, output: Path, project: str) -> str:
    if name == "parquet":
        from ng_rollouts.integrations.parquet import write_parquet  # noqa: PLC0415 - each needs its own library

        return write_parquet(output)
    if name == "report":
        from ng_rollouts.report.build import ViewConfig, page_of  # noqa: PLC0415

        return f"Page: {page_of(ViewConfig(input_jsonl_fpath=str(output)))}"
    from ng_rollouts.integrations.trackers import TRACKERS, TrackedRun  # noqa: PLC0415

    return TRACKERS[name](TrackedRun.of(output_paths(str(output))), project)


if __name__ == "__main__":
    name, output, project = sys.argv[1:]
    try:
        told = _main(name, Path(output), project)
    except Exception as error:
        sys.stdout.write(f"\n{type(error).__name__}: {' '.join(str(error).split())}\n")
        sys.exit(1)
    sys.stdout.write(f"\n{told}\n")
