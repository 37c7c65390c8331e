"""`ng_view_rollouts`: build or serve the HTML report of a run."""

from __future__ import annotations

import sys
from typing import NoReturn

from ng_rollouts.cli.simple_command import run_command
from ng_rollouts.console import print_result
from ng_rollouts.report.build import ViewConfig, build_page, serve_page


def main() -> NoReturn:
    """Run `ng_view_rollouts`."""
    run_command("ng_view_rollouts", ViewConfig, run)


def run(config: ViewConfig) -> int:
    """Write or serve the page, and return the exit code."""
    if config.serve:
        serve_page(config)
    else:
        print_result(f"Page: {build_page(config)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
