"""The output and its side files have distinct names, and none of them replaces the input."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

from tests.conftest import FILES, ROOT, Ran, assert_complete
from tests.servers import Served

Command = Callable[..., Ran]
Serve = Callable[..., Served]
Tasks = Callable[..., Path]


def test_outputs_that_differ_after_a_dot_have_their_own_side_files(
    command: Command, serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    """A dot in the output's name is not taken for an extension, so `out_0.2` and `out_0.7` share no side file."""
    tasks(10)
    server = serve(faults={"400": 0.5}, sticky=True)
    for name in ("out_0.2", "out_0.7"):
        assert command(FILES[0], "+agent_name=a", f"+agent_url={server.url}", f"+output_jsonl_fpath={name}").code == 1
    names = {path.name for path in tmp_path.iterdir()} - {"tasks.jsonl"}
    endings = ("", "_failures.jsonl", "_manifest.json", "_aggregate_metrics.json", "_summary.json")
    assert names == {name + ending for name in ("out_0.2", "out_0.7") for ending in endings}


def test_symbolic_link_to_the_output_stays_a_link(command: Command, tasks: Tasks, serve: Serve, tmp_path: Path) -> None:
    """If the output's path is a symbolic link, the run replaces the file that it points to, not the link."""
    tasks(5)
    (tmp_path / "big").mkdir()
    (tmp_path / "r.jsonl").symlink_to(tmp_path / "big" / "real.jsonl")
    assert command(*FILES, f"+agent_url={serve(delay=[0, 0.05]).url}").code == 0
    assert (tmp_path / "r.jsonl").is_symlink()
    assert_complete(tmp_path, 5)


def test_compressed_output_must_not_replace_the_compressed_input(command: Command, tmp_path: Path) -> None:
    """An output with the path of the compressed input is rejected, although the run reads a decompressed copy."""
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress((ROOT / "examples" / "arithmetic.jsonl").read_bytes()))
    ran = command("+agent_name=example_math_agent", "+input_jsonl_fpath=t.jsonl.gz", "+output_jsonl_fpath=t.jsonl.gz")
    assert ran.code == 2
    assert "would replace the input t.jsonl.gz" in ran.stderr


def test_output_name_that_is_too_long_is_rejected(command: Command, tasks: Tasks) -> None:
    """An output is rejected in one line if the names of its side files would be longer than the file system allows."""
    tasks(1)
    ran = command(*FILES, f"+output_jsonl_fpath={'x' * 245}")
    assert ran.code == 2
    assert len(ran.stderr.splitlines()) == 1
    assert "bytes too long" in ran.stderr


def test_existing_output_is_renamed_with_a_message(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """An existing output is renamed with a number, and a message says so."""
    tasks(1)
    (tmp_path / "r.jsonl").write_text("precious\n")
    ran = command("+agent_name=example_math_agent", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl")
    assert ran.code == 0
    assert "r.jsonl exists: renamed to r.jsonl.1" in ran.stderr
    assert (tmp_path / "r.jsonl.1").read_text() == "precious\n"
