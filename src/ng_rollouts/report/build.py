"""Builds or serves the HTML report of one run, or of two runs over the same tasks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

from ng_rollouts.config.fields import REQUIRED, check_fields, param
from ng_rollouts.console import log
from ng_rollouts.errors import ConfigError, InputError, OutputError
from ng_rollouts.metrics.aggregate import AgentStats
from ng_rollouts.metrics.paired_comparison import difference_of
from ng_rollouts.outputs.path_checks import check_replaceable, check_side_files
from ng_rollouts.outputs.paths import OutputPaths, output_paths
from ng_rollouts.report.html import NOT_IN_PAGE, Blocks, page_head, write_page
from ng_rollouts.report.overview import SharedParameters, overview_of
from ng_rollouts.report.row_view import row_view
from ng_rollouts.report.server import RowOffsets, serve
from ng_rollouts.report.task_index import FAILED, AgentNumbers, Entry, TaskIndex, add_stats, entries_of, example_of
from ng_rollouts.storage.atomic import back_up
from ng_rollouts.storage.lock import locked
from ng_rollouts.types import Json

_BYTES_PER_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Build one self-contained HTML page with an overview and every rollout of a run, or serve it."""

    input_jsonl_fpath: str = param(REQUIRED, "File of rollouts, of this program or of NeMo Gym.")
    output_html_fpath: str | None = param(None, "HTML file to write (null: <stem>.html).")
    compare_jsonl_fpath: str | None = param(None, "Second file over the same tasks, to show side by side.")
    score: str = param("reward", "Score to sort and compare by.")
    serve: bool = param(False, "Serve the page on this machine instead of writing it; rows are read on request.")
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


StoreRow = Callable[[TaskIndex, Entry], None]
"""Stores the row of an entry, and appends its block and line to the index."""


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
        page = Page(config.score)
        for number, each in enumerate(paths):
            blocks = Blocks(cast("BinaryIO", file), number, max_bytes)
            page.read(each, _store_in(blocks))
            blocks.close()
        with locked(target):
            if target.stat().st_size and not config.overwrite:
                log(f"{target} exists: renamed to {back_up(target)}")
            write_page(target, page.head(served=False), cast("BinaryIO", file))
    if page.rows_left_out:
        log(
            f"warning: {page.rows_left_out} rollouts are listed without their messages, because of "
            f"max_page_mb={config.max_page_mb:g}: +serve=true shows all of them"
        )
    return target


def serve_page(config: ViewConfig) -> None:
    """Serve the page on this machine until interrupted.

    Raises:
        InputError: a file cannot be read, or has no rollouts.
        OutputError: the port is taken.
    """
    paths = _paths(config)
    row_offsets = [RowOffsets() for _ in paths]
    page = Page(config.score)
    for each, offsets in zip(paths, row_offsets, strict=True):
        page.read(each, _store_offsets_in(offsets))
    try:
        serve(page.head(served=True), row_offsets, config.port)
    except OSError as error:
        raise OutputError(
            f"cannot listen on port {config.port}: {error.strerror}: choose another port, or port=0 for any free one"
        ) from error


def _store_in(blocks: Blocks) -> StoreRow:
    def store(index: TaskIndex, entry: Entry) -> None:
        block, line = blocks.add(row_view(entry.row_at.row))
        index.blocks.append(block)
        index.lines.append(line)

    return store


def _store_offsets_in(offsets: RowOffsets) -> StoreRow:
    def store(index: TaskIndex, entry: Entry) -> None:
        offsets.add(entry.path, entry.row_at.offset, len(index.tasks) - 1)
        index.blocks.append(NOT_IN_PAGE)
        index.lines.append(NOT_IN_PAGE)

    return store


def _paths(config: ViewConfig) -> list[OutputPaths]:
    paths = [output_paths(source) for source in (config.input_jsonl_fpath, config.compare_jsonl_fpath) if source]
    for each in paths:
        check_side_files(each)
    return paths


class Page:
    """The data of a page over one file, or over two."""

    def __init__(self, score: str) -> None:
        self._score = score
        # Both files share the numbers of agents, so that one filter of the page selects an agent in both.
        self._agent_numbers = AgentNumbers()
        self._indices: list[TaskIndex] = []
        self._overviews: list[Json] = []

    @property
    def rows_left_out(self) -> int:
        """Rollouts whose rows are not in the page."""
        return sum(index.blocks.count(NOT_IN_PAGE) for index in self._indices)

    def read(self, paths: OutputPaths, store_row: StoreRow) -> None:
        """Read a file and its side files.

        Raises:
            InputError: it has no rollouts.
            ConfigError: none of them has the score.
        """
        index, aggregate, failures, parameters = TaskIndex(), AgentStats(), Counter[str](), SharedParameters()
        for entries in entries_of(paths):
            examples = [example_of(entry) for entry in entries]
            index.add(entries, examples, self._agent_numbers, self._score)
            add_stats(aggregate, entries, examples)
            for entry in entries:
                store_row(index, entry)
                parameters.add(entry.row_at.row)
                if entry.kind == FAILED:
                    failures[str(entry.row_at.row.get("failure_class"))] += 1
        aggregate.end()
        if not index.tasks:
            raise InputError(f"{paths.finished} has no rollouts")
        if self._score not in aggregate.scores and aggregate.scores:
            available = ", ".join(aggregate.scores)
            raise ConfigError(
                f"no rollout of {paths.finished} has the score {self._score!r}: available scores: {available}"
            )
        self._indices.append(index)
        self._overviews.append(overview_of(paths, index, aggregate, failures, parameters, self._score))

    def head(self, *, served: bool) -> bytes:
        """The page without its rows."""
        overview = {
            "files": self._overviews,
            "agents": list(self._agent_numbers.numbers),
            "score": self._score,
            "served": served,
            "difference": self._difference(),
        }
        title = " and ".join(each["name"] for each in self._overviews)
        return page_head(title, overview, [index.columns() for index in self._indices], served=served)

    def _difference(self) -> Json | None:
        """The paired difference of the two files; None if there is one file, or no common task."""
        if len(self._indices) < 2:
            return None
        # Tasks are common if index and question agree: an index alone may name another task in another input.
        first, second = (
            dict(zip(zip(index.tasks, index.questions, strict=True), index.means, strict=True))
            for index in self._indices
        )
        common = {
            task: (mean, other)
            for (task, question), mean in first.items()
            if mean is not None and (other := second.get((task, question))) is not None
        }
        # The default seed of ng_compare_rollouts, so that the page shows the same p value.
        rng = random.Random(0)  # noqa: S311 - a bootstrap
        return asdict(difference_of(common, rng)) if common else None


def _target(config: ViewConfig, paths: OutputPaths) -> Path:
    target = Path(config.output_html_fpath).expanduser() if config.output_html_fpath else paths.side_file(".html")
    check_replaceable(target, "output_html_fpath")
    # A swapped parameter must not replace the rollouts by a page.
    if target.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"output_html_fpath {target} is not an .html file: choose a name that ends in .html")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
