"""The table at the end of a sweep: what was swept, the means with intervals, failures and the file of each run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import ConfigError, NgRolloutsError
from ng_rollouts.inputs.shards import shard_of
from ng_rollouts.jsonl import loads
from ng_rollouts.outputs.paths import OutputPaths, output_paths
from ng_rollouts.types import Json

_MAX_SCORES = 3
_NOT_SWEPT = "output_jsonl_fpath"
"""The output differs between runs as a consequence of what is swept. It has its own column."""

_WITHOUT_SUMMARY = (2, 4)
"""Exit codes of runs that end before they write a summary."""


@dataclass(slots=True)
class SweptRun:
    """One run of a sweep.

    Attributes:
        overrides: its parameters as they were typed, by name.
        output: the path of its output.
        summary: the content of its summary file; empty if it has none.
    """

    overrides: dict[str, str]
    code: int | None = None
    output: str = ""
    summary: Json = field(default_factory=dict)

    def end(self, code: int, config: CollectConfig) -> None:
        """Store the outcome of the run with this configuration."""
        self.code = code
        if code in _WITHOUT_SUMMARY:
            return
        with suppress(NgRolloutsError, OSError, ValueError):
            paths = _paths_of(config)
            self.output = str(paths.finished)
            content = loads(Path(paths.summary).read_bytes())
            self.summary = content if isinstance(content, dict) else {}

    @property
    def coverage(self) -> str:
        """How many of the planned rollouts the means are over, and what counts as 0; empty if it is all of them."""
        measured, planned = self.summary.get("measured"), self.summary.get("planned")
        counted = self.summary.get("counted_as_zero") or {}
        zeros = f", {sum(counted.values())} as 0" if counted else ""
        return f"{measured} of {planned}{zeros}" if measured != planned or zeros else ""

    def mean_of(self, score: str) -> str:
        """The mean of a score with half of its 95 % interval, as far as they are known."""
        mean = (self.summary.get("means") or {}).get(score)
        interval = (self.summary.get("intervals_95") or {}).get(score)
        if mean is None:
            return "-"
        return f"{mean:.3f}" + (f" ± {(interval[1] - interval[0]) / 2:.3f}" if interval else "")


def check_outputs(configs: Sequence[CollectConfig]) -> None:
    """Check that no run of a sweep replaces the output of an earlier one.

    Raises:
        ConfigError: one does.
    """
    outputs: set[Path] = set()
    for config in configs:
        output = _paths_of(config).finished
        if config.overwrite and output in outputs:
            raise ConfigError(
                f"output_jsonl_fpath {config.output_jsonl_fpath} is the output of an earlier run of the sweep, which "
                "overwrite=true would replace: use what is swept in its name, such as "
                "'output_jsonl_fpath=r_${limit}.jsonl'"
            )
        outputs.add(output)


def _paths_of(config: CollectConfig) -> OutputPaths:
    shard = shard_of(config, os.environ)
    return output_paths(shard.output_path(config.output_jsonl_fpath) if shard else config.output_jsonl_fpath)


def table_lines(runs: Sequence[SweptRun]) -> Iterator[str]:
    """The runs of a sweep as aligned lines, with an empty line and a header; nothing for a single run."""
    if len(runs) < 2:
        return
    yield ""
    names = [name for name in _names(runs) if len({run.overrides.get(name) for run in runs}) > 1]
    scores = list(dict.fromkeys(name for run in runs for name in run.summary.get("means") or {}))[:_MAX_SCORES]
    # A mean over a part of the rollouts is not comparable with one over all of them.
    has_parts = any(run.coverage for run in runs)
    rows = [[*names, *scores, *(["over"] if has_parts else []), "failed", "exit", "output"]]
    for number, run in enumerate(runs):
        # A later run of the same output has renamed the files of this one.
        is_renamed = run.output in [later.output for later in runs[number + 1 :]]
        values = [run.overrides.get(name, "-") for name in names]
        means = [run.mean_of(score) for score in scores]
        rows.append(
            [
                *values,
                *means,
                *([run.coverage or "all"] if has_parts else []),
                str(run.summary.get("failed", "-")),
                str(run.code),
                f"{run.output or '-'}{' (renamed by a later run)' * is_renamed}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _names(runs: Sequence[SweptRun]) -> Iterator[str]:
    """The names of all overrides but the output's, in order."""
    return (name for name in dict.fromkeys(name for run in runs for name in run.overrides) if name != _NOT_SWEPT)
