"""Builds or serves the HTML report of one run, or of two runs over the same tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

from ng_rollouts.config.fields import REQUIRED, check_fields, param
from ng_rollouts.console import counted, log
from ng_rollouts.errors import ConfigError, OutputError
from ng_rollouts.outputs.path_checks import check_replaceable, check_side_files
from ng_rollouts.outputs.paths import OutputPaths, output_paths
from ng_rollouts.report.html import NOT_IN_PAGE, Blocks, write_page
from ng_rollouts.report.page import StoreRow, head_of, read_file
from ng_rollouts.report.row_view import row_view, text_length
from ng_rollouts.report.run_state import is_running
from ng_rollouts.report.served_file import ServedFile
from ng_rollouts.report.server import ServedPage, serve
from ng_rollouts.report.task_index import AgentNumbers, Entry, TaskIndex
from ng_rollouts.storage.atomic import back_up
from ng_rollouts.storage.lock import is_locked_by_parent, locked

_BYTES_PER_MB = 1e6

_MAX_RENDERED_CHARACTERS = 10_000_000
"""Texts that a page has rendered, because rendering takes time. The others are plain; a served page renders all."""


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Build one self-contained HTML page with an overview and every rollout of a run, or serve it."""

    input_jsonl_fpath: str = param(REQUIRED, "File of rollouts, of this program or of NeMo Gym.")
    output_html_fpath: str | None = param(None, "HTML file to write (null: <stem>.html).")
    compare_jsonl_fpath: str | None = param(None, "Second file over the same tasks, to show side by side.")
    score: str = param("reward", "Score to sort and compare by.")
    serve: bool = param(
        False, "Serve the page on this machine instead of writing it; it follows a run that writes the file."
    )
    port: int = param(0, "Port for serve=true (0: any free port).", minimum=0, maximum=65535)
    overwrite: bool = param(False, "Replace an existing page. By default it is renamed to <page>.1, .2 and so on.")
    max_page_mb: float = param(
        200.0, "Maximum size of the page in MB; further rollouts are listed without their messages.", above=0
    )
    quiet: bool = param(False, "Print JSON alone to stdout, and errors alone to stderr.")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.serve and self.output_html_fpath:
            raise ConfigError("serve=true does not write a file: leave output_html_fpath out")


def build_page(config: ViewConfig) -> Path:
    """Write the page and return its path.

    Raises:
        InputError: a file cannot be read, or has no rollouts.
        OutputError: the page cannot be written to its path.
    """
    paths = _paths(config)
    target = _target(config, paths[0])
    # The head of the page lists the block of every row, so it is complete only after the last row. The blocks wait in
    # a file, because they may be larger than memory. It is next to the target, where there has to be space anyway.
    with TemporaryFile(dir=target.parent) as file:
        max_bytes = config.max_page_mb * _BYTES_PER_MB / len(paths)
        # Both files share the numbers of agents, so that one filter of the page selects an agent in both.
        agent_numbers, files = AgentNumbers(), []
        for number, each in enumerate(paths):
            blocks = Blocks(cast("BinaryIO", file), number, max_bytes)
            # A run makes the page of its finished output before it releases the lock.
            running = is_running(each) and not is_locked_by_parent(each.output)
            files.append(read_file(each, config.score, agent_numbers, _store_in(blocks), running=running))
            blocks.close()
        with locked(target):
            if target.stat().st_size and not config.overwrite:
                log(f"{target} exists: renamed to {back_up(target)}")
            write_page(target, head_of(files, agent_numbers, config.score, version=None), cast("BinaryIO", file))
    if left_out := sum(each.columns["blocks"].count(NOT_IN_PAGE) for each in files):
        log(
            f"warning: {counted(left_out, 'rollout', 'is', 'are')} listed without messages, because of "
            f"max_page_mb={config.max_page_mb:g}: +serve=true shows all of them"
        )
    return target


def serve_page(config: ViewConfig, *, has_ended: Callable[[], bool] | None = None) -> None:
    """Serve the page on this machine until interrupted. It follows an output that a run is writing.

    Args:
        has_ended: see `server.serve`.

    Raises:
        InputError: a file cannot be read, or has no rollouts.
        ConfigError: the port is taken.
    """
    agent_numbers = AgentNumbers()
    files = [ServedFile(paths, config.score, agent_numbers) for paths in _paths(config)]
    serve(ServedPage(files, agent_numbers, config.score), config.port, has_ended=has_ended)


def _store_in(blocks: Blocks) -> StoreRow:
    rendered = 0

    def store(index: TaskIndex, entry: Entry) -> None:
        nonlocal rendered
        rendered += text_length(entry.row_at.row)
        block, line = blocks.add(row_view(entry.row_at.row, renders=rendered <= _MAX_RENDERED_CHARACTERS))
        index.blocks.append(block)
        index.lines.append(line)

    return store


def _paths(config: ViewConfig) -> list[OutputPaths]:
    paths = [output_paths(source) for source in (config.input_jsonl_fpath, config.compare_jsonl_fpath) if source]
    for each in paths:
        check_side_files(each)
    return paths


def _target(config: ViewConfig, paths: OutputPaths) -> Path:
    target = Path(config.output_html_fpath).expanduser() if config.output_html_fpath else paths.side_file(".html")
    check_replaceable(target, "output_html_fpath")
    # A swapped parameter must not replace the rollouts by a page.
    if target.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"output_html_fpath {target} is not an .html file: choose a name that ends in .html")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
