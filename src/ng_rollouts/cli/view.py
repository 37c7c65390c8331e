"""`ng_view_rollouts`: build or serve the HTML report of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from ng_rollouts.cli.simple_command import run_command
from ng_rollouts.console import print_json, print_result, prints_only_json
from ng_rollouts.outputs.reader import check_readable
from ng_rollouts.report.build import ViewConfig, build_page, serve_page


def main() -> NoReturn:
    """Run `ng_view_rollouts`."""
    run_command("ng_view_rollouts", ViewConfig, run, example="+input_jsonl_fpath=rollouts.jsonl +serve=true")


def run(config: ViewConfig) -> int:
    """Write or serve the page, and return the exit code."""
    check_readable("input_jsonl_fpath", Path(config.input_jsonl_fpath).expanduser())
    if config.compare_jsonl_fpath:
        check_readable("compare_jsonl_fpath", Path(config.compare_jsonl_fpath).expanduser())
    if config.serve:
        serve_page(config)
    else:
        page = build_page(config)
        print_result(f"Page: {page}")
        if prints_only_json():
            print_json({"page": str(page)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
