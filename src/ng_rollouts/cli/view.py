"""`ng_view_rollouts`: build or serve the HTML report of a run."""

from __future__ import annotations

import sys
from typing import NoReturn

from ng_rollouts.cli.simple_command import run_command
from ng_rollouts.console import print_json, print_result, prints_only_json
from ng_rollouts.outputs.paths import output_paths
from ng_rollouts.outputs.reader import check_readable
from ng_rollouts.report.build import ViewConfig, build_page, serve_page
from ng_rollouts.report.task_index import source_of


def main() -> NoReturn:
    """Run `ng_view_rollouts`."""
    run_command("ng_view_rollouts", ViewConfig, run, example="+input_jsonl_fpath=rollouts.jsonl +serve=true")


def run(config: ViewConfig) -> int:
    """Write or serve the page, and return the exit code."""
    for parameter, path in (
        ("input_jsonl_fpath", config.input_jsonl_fpath),
        ("compare_jsonl_fpath", config.compare_jsonl_fpath),
    ):
        if path:
            check_readable(parameter, source_of(output_paths(path)), follows=config.serve)
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
