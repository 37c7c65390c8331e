"""`ng_view_rollouts`: a run as a page to read."""

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
from ng_rollouts.outputs.paths import OutputPaths, output_paths
from ng_rollouts.report.html import Blocks, page_head, write_page
from ng_rollouts.report.overview import SharedParameters, overview_of
from ng_rollouts.report.row_view import row_view
from ng_rollouts.report.server import RowOffsets, serve
from ng_rollouts.report.task_index import FAILED, Entry, Names, TaskIndex, add_stats, entries_of, example_of
from ng_rollouts.types import Json

_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Build one self-contained HTML page with an overview and every rollout of a run, or serve it."""

    input_jsonl_fpath: str = param(REQUIRED, "File of rollouts, of this program or of NeMo Gym.")
    output_html_fpath: str | None = param(None, "HTML file to write (null: <stem>.html).")
    compare_jsonl_fpath: str | None = param(None, "Second file over the same tasks, to show side by side.")
    score: str = param("reward", "Score to sort and compare by.")
    serve: bool = param(False, "Serve the page on this machine instead of writing it; rows are read on request.")
    port: int = param(0, "Port for serve=true (0: any free port).", minimum=0, maximum=65535)
    max_page_mb: float = param(
        200.0, "Maximum size of the page in MB; further rollouts are listed without their messages.", above=0
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.serve and self.output_html_fpath:
            raise ConfigError("serve=true writes no file: leave output_html_fpath out")


StoreRow = Callable[[TaskIndex, Entry], None]
"""Notes where the row of an entry can be read."""


def page_of(config: ViewConfig) -> Path:
    """Write the page; where it is."""
    paths = _paths(config)
    target = _target(config, paths[0])
    with TemporaryFile(dir=target.parent) as file:
        blocks = [
            Blocks(cast("BinaryIO", file), number, config.max_page_mb * _MB / len(paths))
            for number in range(len(paths))
        ]

        def placing(held: Blocks) -> StoreRow:
            def place(index: TaskIndex, entry: Entry) -> None:
                block, line = held.add(row_view(entry.row_at.row))
                index.blocks.append(block)
                index.lines.append(line)

            return place

        page = Page(config.score)
        for each, held in zip(paths, blocks, strict=True):
            page.read(each, placing(held))
            held.close()
        write_page(target, page.head(served=False), cast("BinaryIO", file))
    if page.rows_left_out:
        told = f"{page.rows_left_out} rollouts are in it by their heads alone, for max_page_mb={config.max_page_mb:g}"
        log(f"warning: {told}: +serve=true has them all")
    return target


def _paths(config: ViewConfig) -> list[OutputPaths]:
    return [output_paths(source) for source in (config.input_jsonl_fpath, config.compare_jsonl_fpath) if source]


def serve_page(config: ViewConfig) -> None:
    """Serve the page on this machine until interrupted."""
    paths = _paths(config)
    places = [RowOffsets() for _ in paths]

    def placing(held: RowOffsets) -> StoreRow:
        def place(index: TaskIndex, entry: Entry) -> None:
            held.add(entry.path, entry.row_at.offset, len(index.tasks) - 1)
            index.blocks.append(-1)
            index.lines.append(-1)

        return place

    page = Page(config.score)
    for each, held in zip(paths, places, strict=True):
        page.read(each, placing(held))
    try:
        serve(page.head(served=True), places, config.port)
    except OSError as error:
        raise OutputError(f"port {config.port} cannot be served on: {error.strerror}") from error


class Page:
    """What there is to tell of one file, or of two."""

    def __init__(self, score: str) -> None:
        self._score = score
        self._names = Names()
        self._indices: list[TaskIndex] = []
        self._overviews: list[Json] = []

    @property
    def rows_left_out(self) -> int:
        """Rollouts whose rows are not in the page."""
        return sum(index.blocks.count(-1) for index in self._indices)

    def read(self, paths: OutputPaths, place: StoreRow) -> None:
        """Take a file in.

        Raises:
            InputError: it has no rollouts, or none with the score.
        """
        index, aggregate, failures, parameters = TaskIndex(), AgentStats(), Counter[str](), SharedParameters()
        for entries in entries_of(paths):
            examples = [example_of(entry) for entry in entries]
            index.add(entries, examples, self._names, self._score)
            add_stats(aggregate, entries, examples)
            for entry in entries:
                place(index, entry)
                parameters.add(entry.row_at.row)
                if entry.kind == FAILED:
                    failures[str(entry.row_at.row.get("failure_class"))] += 1
        aggregate.end()
        if not index.tasks:
            raise InputError(f"{paths.finished} has no rollouts")
        if self._score not in aggregate.scores and aggregate.scores:
            there = ", ".join(aggregate.scores)
            raise ConfigError(f"no rollout of {paths.finished} has the score {self._score!r}: there are {there}")
        self._indices.append(index)
        self._overviews.append(overview_of(paths, index, aggregate, failures, parameters, self._score))

    def head(self, *, served: bool) -> bytes:
        """The page but for its rows."""
        overview = {
            "files": self._overviews,
            "agents": list(self._names.numbers),
            "score": self._score,
            "served": served,
            "difference": self._difference(),
        }
        title = " and ".join(each["name"] for each in self._overviews)
        return page_head(title, overview, [index.columns() for index in self._indices], served=served)

    def _difference(self) -> Json | None:
        if len(self._indices) < 2:
            return None
        first, second = (
            dict(zip(zip(index.tasks, index.questions, strict=True), index.means, strict=True))
            for index in self._indices
        )
        common = {
            task: (mean, other)
            for (task, question), mean in first.items()
            if mean is not None and (other := second.get((task, question))) is not None
        }
        rng = random.Random(0)  # noqa: S311 - a bootstrap
        return asdict(difference_of(common, rng)) if common else None


def _target(config: ViewConfig, paths: OutputPaths) -> Path:
    target = Path(config.output_html_fpath).expanduser() if config.output_html_fpath else paths.side_file(".html")
    if target.is_dir():
        raise OutputError(f"output_html_fpath {target} is a folder: name a file")
    if target.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"output_html_fpath {target} is no .html file: the page would replace it")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
