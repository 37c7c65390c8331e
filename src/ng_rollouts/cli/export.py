"""`ng_export_rollouts`: export training data, and report which rollouts were left out and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NoReturn, cast

from ng_rollouts.cli.simple_command import run_command
from ng_rollouts.console import counted, log, print_json, print_result
from ng_rollouts.errors import InputError, OutputError, require_extra
from ng_rollouts.export.config import ExportConfig, is_parquet
from ng_rollouts.export.formats import ExportFormat
from ng_rollouts.export.recipes import RECIPES
from ng_rollouts.export.writer import RowWriter
from ng_rollouts.outputs.path_checks import check_not_an_output, check_other_runs, check_replaceable, writable
from ng_rollouts.outputs.paths import has_content, output_paths
from ng_rollouts.outputs.reader import check_readable, row_groups
from ng_rollouts.storage.atomic import back_up, replacing
from ng_rollouts.storage.compression import (
    base_name,
    check_compression,
    compress_in_place,
    compressed_names,
    is_compressed,
    plain_name,
)
from ng_rollouts.storage.lock import locked
from ng_rollouts.types import Json


def main() -> NoReturn:
    """Run `ng_export_rollouts`."""
    example = "+recipe=sft +input_jsonl_fpath=rollouts.jsonl +output_jsonl_fpath=sft.jsonl +min_reward=0.8"
    run_command("ng_export_rollouts", ExportConfig, run, example=example)


def run(config: ExportConfig) -> int:
    """Export the rollouts, print the statistics, and return the exit code.

    Raises:
        InputError: the file has no rollouts, or none with what the rows are made from.
        OutputError: the output cannot be written.
    """
    export_format = RECIPES[config.recipe](config)
    if export_format.layout.columns:
        require_extra("pyarrow", "parquet", f"format={config.format}")
    source, target = Path(config.input_jsonl_fpath).expanduser(), Path(config.output_jsonl_fpath).expanduser()
    check_readable("input_jsonl_fpath", source)
    _check_outputs(source, target)
    with writable(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Shuffling and splitting need all rows, which may not fit into memory: they wait in a file next to the target.
        with TemporaryFile(dir=target.parent) as file:
            writer = RowWriter(cast("BinaryIO", file))
            read = _read_rows(writer, export_format, source, config)
            written = _write_files(writer, target, config, export_format)
            if export_format.layout.info:
                _write_info(target, list(written), export_format.layout.info, config)
    _print_statistics(export_format, read, written)
    return 0


def _check_outputs(source: Path, target: Path) -> None:
    check_replaceable(target)
    check_compression(f"output_jsonl_fpath {target}")
    if is_parquet(target):
        require_extra("pyarrow", "parquet", f"output_jsonl_fpath {target}")
        _check_not_a_product(target)
    else:
        check_other_runs(output_paths(str(target)))
    # The validation file has a derived name, which may be that of the input.
    for path in (target, _validation(target), _info(target)):
        check_replaceable(path)
        check_not_an_output(path, "output_jsonl_fpath")
        if path.exists() and source.exists() and path.samefile(source):
            raise OutputError(
                f"output_jsonl_fpath {target} would replace {path}, which is the input: name another file"
            )


def _check_not_a_product(target: Path) -> None:
    """Check that a Parquet file is not that of a run. `sft.jsonl` may be an export beside `sft.parquet`.

    Raises:
        OutputError: it is.
    """
    plain = target.with_suffix(".jsonl")
    for path in (plain, *compressed_names(plain)):
        check_not_an_output(path, f"output_jsonl_fpath {target} is the name of a side file:")


def _read_rows(writer: RowWriter, export_format: ExportFormat, source: Path, config: ExportConfig) -> int:
    """Pass the rows of every group to the writer, and return the number of rollouts read.

    Raises:
        InputError: the file has no rollouts, or none with what the rows are made from.
    """
    read = 0
    for group in row_groups(source, config.group_by, config.num_repeats or 0):
        read += len(group)
        for row, prompt in export_format.rows(group):
            writer.add(row, prompt)
    if not read:
        raise InputError(f"{source} has no rollouts")
    export_format.check(source)
    return read


def _write_files(writer: RowWriter, target: Path, config: ExportConfig, export_format: ExportFormat) -> dict[Path, int]:
    """Write the training and validation files, and return the number of rows of each."""
    train, validation = writer.parts(config.validation_fraction, shuffle=config.shuffle, seed=config.seed)
    parts = {target: train}
    if config.validation_fraction:
        parts[_validation(target)] = validation
    for path, positions in parts.items():
        # A run that writes a compressed output has a plain file with its lock.
        plain = plain_name(path)
        run_lock = locked(plain) if plain != path and plain.exists() else nullcontext()
        with run_lock, locked(path), replacing(path) as temporary:
            if export_format.layout.columns:
                from ng_rollouts.integrations.typed_parquet import write_typed_parquet  # noqa: PLC0415 - needs pyarrow

                write_typed_parquet(writer.lines(positions), export_format.layout.columns, temporary)
            else:
                writer.write(positions, temporary)
                if is_parquet(path):
                    _convert_to_parquet(temporary, export_format.column_types)
            compress_in_place(temporary, path)
            # Last, so that an error while writing leaves the existing file where it is.
            if not config.overwrite:
                _back_up(path)
    if not config.validation_fraction:
        # Rows of the validation file of an earlier export are now part of the training file.
        with locked(_validation(target)):
            _back_up(_validation(target))
    return {path: len(positions) for path, positions in parts.items()}


def _write_info(target: Path, written: list[Path], info: Json, config: ExportConfig) -> None:
    """Write the description of the files by which LLaMA-Factory finds them, for its `dataset_info.json`."""
    path = _info(target)
    entries = {base_name(each): {"file_name": each.name, **info} for each in written}
    with locked(path), replacing(path) as temporary:
        temporary.write_text(json.dumps(entries, indent=2) + "\n")
        if not config.overwrite:
            _back_up(path)
    log(f"LLaMA-Factory: add the content of {path} to dataset_info.json")


def _info(target: Path) -> Path:
    return target.with_name(f"{base_name(target)}_dataset_info.json")


def _validation(target: Path) -> Path:
    if is_parquet(target):
        return target.with_name(f"{target.stem}_validation{target.suffix}")
    compression = target.suffix if is_compressed(target) else ""
    return target.with_name(f"{base_name(target)}_validation.jsonl{compression}")


def _convert_to_parquet(file: Path, column_types: Mapping[str, Any]) -> None:
    from ng_rollouts.integrations.parquet import convert  # noqa: PLC0415 - needs pyarrow

    with replacing(file) as converted:
        convert(file, converted, column_types)


def _back_up(path: Path) -> None:
    if has_content(path):
        log(f"{path} exists: renamed to {back_up(path)}")


def _print_statistics(export_format: ExportFormat, read: int, written: dict[Path, int]) -> None:
    """Print the results as lines for people, and then as one JSON object for programs."""
    print_result(f"Read {counted(read, 'rollout')} of {counted(export_format.groups, 'group')}")
    for line in export_format.summary_lines():
        print_result(line)
    for path, rows in written.items():
        print_result(f"Wrote {counted(rows, 'row')} to {path}")
    if not all(written.values()):
        log("warning: a file has no rows: stdout lists the rollouts that were left out, by reason")
    left_out = {reason: number for reason, number in export_format.skipped.most_common() if number}
    for reason, number in left_out.items():
        print_result(f"Left out: {number} {reason}")
    for note, number in export_format.notes.items():
        log(f"note: {number} {note}")
    statistics: Json = {
        "rollouts": read,
        "groups": export_format.groups,
        **export_format.statistics(),
        "written": {str(path): rows for path, rows in written.items()},
        "left_out": left_out,
    }
    print_json(statistics)


if __name__ == "__main__":
    sys.exit(main())
