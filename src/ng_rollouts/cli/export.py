"""`ng_export_rollouts`: rows to train on, and what became of those that are not among them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, NoReturn, cast

from ng_rollouts.cli.simple_command import run_command
from ng_rollouts.console import log, print_result
from ng_rollouts.errors import InputError, OutputError
from ng_rollouts.export.config import ExportConfig
from ng_rollouts.export.formats import RECIPES, ExportFormat
from ng_rollouts.export.writer import RowWriter, writable
from ng_rollouts.outputs.paths import check_replaceable
from ng_rollouts.outputs.reader import row_groups
from ng_rollouts.storage.atomic import back_up, replacing
from ng_rollouts.storage.compression import base_name, check_compression, compress_in_place, is_compressed
from ng_rollouts.types import Json


def main() -> NoReturn:
    """`ng_export_rollouts`."""
    run_command("ng_export_rollouts", ExportConfig, run)


def run(config: ExportConfig) -> int:
    """Export, and tell what came of it; the exit code."""
    source, target = Path(config.input_jsonl_fpath).expanduser(), Path(config.output_jsonl_fpath).expanduser()
    _check_outputs(source, target)
    recipe = RECIPES[config.recipe](config)
    with writable(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=target.parent) as file:
            sink = RowWriter(cast("BinaryIO", file))
            read = _fill(sink, recipe, source, config)
            written = _place(sink, target, config)
    _log_lines(recipe, read, written)
    return 0


def _check_outputs(source: Path, target: Path) -> None:
    check_replaceable(target)
    check_compression(f"output_jsonl_fpath {target}")
    for path in (target, _validation(target)):
        check_replaceable(path)
        if path.exists() and source.exists() and path.samefile(source):
            raise OutputError(f"output_jsonl_fpath {target} writes {path}, which is the input: name another")


def _fill(sink: RowWriter, recipe: ExportFormat, source: Path, config: ExportConfig) -> int:
    """Have the recipe's rows in the sink; how many rollouts were read."""
    read = 0
    for group in row_groups(source, config.group_by, config.num_repeats or 0):
        read += len(group)
        for row, prompt in recipe.rows(group):
            sink.add(row, prompt)
    if not read:
        raise InputError(f"{source} has no rollouts")
    if config.score not in recipe.scores:
        there = ", ".join(sorted(recipe.scores)) or "none"
        raise InputError(f"no rollout of {source} has the score {config.score!r}: there are {there}")
    return read


def _place(sink: RowWriter, target: Path, config: ExportConfig) -> dict[Path, int]:
    """Put the files in place; how many rows each has."""
    train, validation = sink.parts(config.validation_fraction, shuffle=config.shuffle, seed=config.seed)
    parts = {target: train}
    if config.validation_fraction:
        parts[_validation(target)] = validation
    for path, places in parts.items():
        with replacing(path) as temporary:
            sink.write(places, temporary)
            compress_in_place(temporary, path)
            if not config.overwrite:
                _set_aside(path)
    if not config.validation_fraction:
        _leave_no_validation(target, config)
    return {path: len(places) for path, places in parts.items()}


def _validation(target: Path) -> Path:
    packing = target.suffix if is_compressed(target) else ""
    return target.with_name(f"{base_name(target)}_validation.jsonl{packing}")


def _leave_no_validation(target: Path, config: ExportConfig) -> None:
    """What an earlier export of that name held out is among the rows to train on now."""
    if config.overwrite:
        _validation(target).unlink(missing_ok=True)
    else:
        _set_aside(_validation(target))


def _set_aside(path: Path) -> None:
    if path.exists():
        log(f"{path} was there: moved to {back_up(path)}")


def _log_lines(recipe: ExportFormat, read: int, written: dict[Path, int]) -> None:
    print_result(f"Read {read} rollouts of {recipe.groups} groups")
    for line in recipe.summary_lines():
        print_result(line)
    for path, rows in written.items():
        print_result(f"Wrote {rows} rows to {path}")
    if not all(written.values()):
        log("warning: a file has no rows: what was left out is told on stdout")
    left_out = {reason: number for reason, number in recipe.skipped.most_common() if number}
    for reason, number in left_out.items():
        print_result(f"Left out: {number} {reason}")
    statistics: Json = {
        "rollouts": read,
        "groups": recipe.groups,
        **recipe.statistics(),
        "written": {str(path): rows for path, rows in written.items()},
        "left_out": left_out,
    }
    print_result(json.dumps(statistics, indent=4))


if __name__ == "__main__":
    sys.exit(main())
