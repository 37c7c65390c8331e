"""The page of a run that is being collected: started by the collector, and served until the run has ended.

Its stdin is a pipe from the collector, which ends with it. Open pages are then served until the last one is closed.
"""

from __future__ import annotations

import os
import sys
import threading

from ng_rollouts.report.build import ViewConfig, serve_page


def main(output: str) -> None:
    """Serve the page of an output."""
    ended = threading.Event()

    def wait_for_end() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    serve_page(ViewConfig(input_jsonl_fpath=output, serve=True), has_ended=ended.is_set)


if __name__ == "__main__":
    main(sys.argv[1])
