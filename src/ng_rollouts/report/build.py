"""`ng_view_rollouts`: a run as a page to read."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

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
    """One HTML page to read a run by: it holds all it needs, and opens from disk."""

    input_jsonl_fpath: str = field(metadata={"help": "A file of rollouts, ours or NeMo Gym's. Required."})
    output_html_fpath: str | None = field(
        default=None, metadata={"help": "Where the page goes; null: beside the file, by its name."}
    )
    compare_jsonl_fpath: str | None = field(
        default=None, metadata={"help": "Another file over the same tasks, held against the first."}
    )
    score: str = field(default="reward", metadata={"help": "The score that the page goes by."})
    serve: bool = field(
        default=False, metadata={"help": "Write nothing: serve the page on this machine, rows read as they are needed."}
    )
    port: int = field(default=0, metadata={"help": "With serve=true: its port; 0 for any that is free."})
    max_page_mb: float = field(
        default=200.0, metadata={"help": "Rows beyond this are known to the page by their heads alone."}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port must be from 0 to 65535, got {self.port}")
        if not self.max_page_mb > 0:
            raise ConfigError(f"max_page_mb must be more than 0, got {self.max_page_mb:g}")
        if self.serve and self.output_html_fpath:
            raise ConfigError("serve=true writes no page: leave output_html_fpath out")


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
            "agents": list(self._names.scores_of_row),
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
            dict(zip(zip(index.tasks, index.asked, strict=True), index.means, strict=True)) for index in self._indices
        )
        common = {
            task: (mean, other)
            for (task, asked), mean in first.items()
            if mean is not None and (other := second.get((task, asked))) is not None
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
