"""An existing output is renamed, overwritten or resumed, whether it is compressed or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from ng_rollouts.errors import OutputError
from ng_rollouts.outputs.open_journal import open_new
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.storage.compression import open_decompressed
from tests.conftest import EXAMPLE, RESUME, Ran, files_in, keys_of

Command = Callable[..., Ran]


def test_output_in_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    """An output whose folder cannot be created is an error with the path and the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        open_new(OutputPaths(tmp_path / "file" / "out.jsonl"), 1, overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_existing_output_is_renamed_unless_it_is_overwritten(tmp_path: Path, *, overwrite: bool) -> None:
    """An existing output and its side files get the first number that is free for all of them, or are removed."""
    paths = OutputPaths(tmp_path / "out.jsonl")
    paths.output.write_text("old\n")
    paths.failures.write_text("old failures\n")
    (tmp_path / "out_failures.jsonl.1").write_text("older\n")
    with open_new(paths, 1, overwrite=overwrite) as journal:
        assert journal.backup == (None if overwrite else tmp_path / "out.jsonl.2")
    remaining = {path.name: path.read_text() for path in tmp_path.iterdir() if path.stat().st_size}
    older = {"out_failures.jsonl.1": "older\n"}
    renamed = {"out.jsonl.2": "old\n", "out_failures.jsonl.2": "old failures\n"}
    assert remaining == (older if overwrite else older | renamed)


def test_existing_compressed_output_is_renamed(command: Command, tmp_path: Path) -> None:
    """An existing compressed output is renamed under its compressed name, and no plain file is left."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl.zst"]
    assert command(*run).code == 0
    first = (tmp_path / "r.jsonl.zst").read_bytes()
    assert "r.jsonl.zst exists: renamed to r.jsonl.zst.1" in command(*run).stderr
    assert (tmp_path / "r.jsonl.zst.1").read_bytes() == first
    assert not {"r.jsonl", "r.jsonl.1"} & files_in(tmp_path).keys()


def test_output_can_be_resumed_under_another_compression(command: Command, tmp_path: Path) -> None:
    """`r.jsonl`, `r.jsonl.zst` and `r.jsonl.gz` are one output: a run resumes or renames it under any of its names."""
    assert command(*EXAMPLE, "+num_repeats=2", "+output_jsonl_fpath=r.jsonl.zst").code == 0
    first = (tmp_path / "r.jsonl.zst").read_bytes()
    ran = command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl")
    assert "r.jsonl.zst exists: renamed to r.jsonl.zst.1" in ran.stderr
    assert (tmp_path / "r.jsonl.zst.1").read_bytes() == first
    for name, repeats in (("r.jsonl.gz", 2), ("r.jsonl.zst", 3), ("r.jsonl", 4)):
        ran = command(*EXAMPLE, f"+num_repeats={repeats}", f"+output_jsonl_fpath={name}", RESUME)
        assert ran.code == 0, ran.stderr
        assert f"{10 * (repeats - 1)} of {10 * repeats} rollouts are collected" in ran.stderr
        assert {each for each in files_in(tmp_path) if each.startswith("r.jsonl") and each[-1] != "1"} == {name}
    assert keys_of(tmp_path / "r.jsonl") == [(task, index) for task in range(10) for index in range(4)]


def test_compressed_file_next_to_a_plain_output_is_renamed(command: Command, tmp_path: Path) -> None:
    """A compressed file next to a plain output is another file: a resume continues the plain one and renames this."""
    assert command(*EXAMPLE, "+output_jsonl_fpath=r.jsonl").code == 0
    (tmp_path / "r.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(b"something else\n"))
    ran = command(*EXAMPLE, "+num_repeats=2", "+output_jsonl_fpath=r.jsonl.zst", RESUME)
    assert ran.code == 0, ran.stderr
    assert "renamed to r.jsonl.zst.1" in ran.stderr
    assert zstandard.ZstdDecompressor().decompress((tmp_path / "r.jsonl.zst.1").read_bytes()) == b"something else\n"
    with open_decompressed(tmp_path / "r.jsonl.zst") as file:
        assert file.read().count(b"\n") == 20


def test_dry_run_and_rejected_resume_do_not_change_a_compressed_output(command: Command, tmp_path: Path) -> None:
    """A dry run, and a resume with other settings, leave every file of a compressed output as it was."""
    run = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl.zst"]
    assert command(*run).code == 0
    before = files_in(tmp_path)
    assert command(*run, RESUME, "+num_repeats=2", "+dry_run=true").code == 0
    assert command(*run, RESUME, "+responses_create_params.temperature=0.5").code == 2
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("extension", [".gz", ".zst"])
@pytest.mark.parametrize("length", [0, 100], ids=["empty", "truncated"])
def test_damaged_compressed_output_is_not_resumed(
    command: Command, tmp_path: Path, extension: str, length: int
) -> None:
    """A damaged compressed output is an error and stays unchanged; once it is removed, the remote copy is fetched."""
    run = [*EXAMPLE, f"+output_jsonl_fpath=r.jsonl{extension}", "+upload_to=remote"]
    assert command(*run).code == 0
    output = tmp_path / f"r.jsonl{extension}"
    output.write_bytes(output.read_bytes()[:length])
    before = files_in(tmp_path)
    for name in (output.name, "r.jsonl"):
        ran = command(*EXAMPLE, f"+output_jsonl_fpath={name}", "+num_repeats=2", RESUME)
        assert ran.code == 2
        assert f"error: {output.name} cannot be read: " in ran.stderr
        assert files_in(tmp_path) == before
    output.unlink()
    ran = command(*run, "+num_repeats=2", RESUME)
    assert ran.code == 0, ran.stderr
    assert "10 of 20 rollouts are collected" in ran.stderr
