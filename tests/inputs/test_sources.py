"""Inputs in other formats and places: compressed files, Parquet, pipes, stdin and URLs."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.errors import InputError
from ng_rollouts.inputs import lines
from ng_rollouts.inputs.sources import local_input
from tests.conftest import ROOT, SCRIPTS, Ran, keys_of, read_rows
from tests.servers import Served

PACKAGED_AGENT = "+agent_name=example_math_agent"


def write_as(path: Path, text: str) -> None:
    """Write JSONL in the format of the file's extension."""
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    if path.suffix.lower() == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix in (".bz2", ".xz"):
        path.write_bytes((bz2 if path.suffix == ".bz2" else lzma).compress(text.encode()))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.ZstdCompressor().compress(text.encode()))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([json.loads(line) for line in text.splitlines()]), path)
    else:
        with fsspec.open(f"file://{path}", "w") as file:
            file.write(text)


def test_missing_input_or_folder_is_an_error_with_the_reason(tmp_path: Path) -> None:
    """An input that does not exist or is a folder is an error with the reason."""
    for path, reason in ((tmp_path / "nope", "No such file"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=reason), local_input(str(path)):
            pass


@pytest.mark.parametrize(
    "name", ["t.jsonl.gz", "t.jsonl.GZ", "t.jsonl.zst", "t.jsonl.bz2", "t.jsonl.xz", "t.parquet", "t.jsonl"]
)
def test_output_is_the_same_for_every_input_format(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    """A compressed input, a Parquet file and a URL give the same output as the plain file, and can be resumed."""
    plain = tasks(5).read_text()
    write_as(tmp_path / name, plain)
    source = f"file://{tmp_path / name}" if name == "t.jsonl" else name
    run = [PACKAGED_AGENT, "+num_repeats=2"]
    assert command(*run, "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=a.jsonl").code == 0
    run += [f"+input_jsonl_fpath={source}", "+output_jsonl_fpath=b.jsonl"]
    ran = command(*run)
    assert ran.code == 0, ran.stderr
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert command(*run, "+resume_from_cache=true").code == 0


def test_parquet_nulls_of_missing_fields_are_not_sent(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """All structs of a Parquet column have the same fields; a field that a row does not have is not sent as null."""
    message = {"role": "user", "content": "2 + 3"}
    output = {"type": "function_call_output", "call_id": "c", "output": "5"}
    rows = [{"responses_create_params": {"input": items}} for items in ([message], [message, output])]
    write_as(tmp_path / "t.parquet", "".join(json.dumps(row) + "\n" for row in rows))
    run = [PACKAGED_AGENT, "+output_jsonl_fpath=r.jsonl"]
    assert command(*run, "+input_jsonl_fpath=t.parquet").code == 0
    sent = [row["responses_create_params"]["input"] for row in read_rows(tmp_path / "r.jsonl")]
    assert sent == [[message], [message, output]]


def test_parquet_column_without_json_equivalent_is_an_error_with_its_name(
    command: Callable[..., Ran], tmp_path: Path
) -> None:
    """A Parquet column whose type does not exist in JSON is a usage error that names the column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["a"], "blob": [b"x"]}), tmp_path / "t.parquet")
    ran = command(PACKAGED_AGENT, "+input_jsonl_fpath=t.parquet", "+output_jsonl_fpath=r.jsonl")
    assert (ran.code, "column blob: " in ran.stderr) == (2, True), ran.stderr


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a log, since the tests read the command's stderr."""

    def log_message(self, *_: object) -> None:
        return


def test_signed_url_is_read_by_the_extension_of_its_path_and_masked_in_messages(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """The extension of a URL's path decides its format, and the query with the signature is masked in messages."""
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(tasks(3).read_bytes()))
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/t.jsonl.gz?X-Amz-Signature=SECRETSIG"
        run = [PACKAGED_AGENT, "+output_jsonl_fpath=r.jsonl"]
        ran = command(*run, f"+input_jsonl_fpath={url}")
        missing = command(*run, f"+input_jsonl_fpath={url.replace('t.jsonl', 'none.jsonl')}")
        server.shutdown()
    assert (ran.code, len(read_rows(tmp_path / "r.jsonl"))) == (0, 3), ran.stderr
    assert (missing.code, "SECRETSIG" in missing.stderr) == (2, False)


def test_stdin_is_the_input_dash(tasks: Callable[..., Path], tmp_path: Path) -> None:
    """With `input_jsonl_fpath=-`, the tasks are read from stdin."""
    ran = subprocess.run(
        [str(SCRIPTS / "ng_collect_rollouts"), PACKAGED_AGENT, "+input_jsonl_fpath=-", "+output_jsonl_fpath=r.jsonl"],
        cwd=tmp_path,
        input=tasks(4).read_text(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert keys_of(tmp_path / "r.jsonl") == [(task, 0) for task in range(4)]


def test_input_can_be_a_pipe(serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path) -> None:
    """An input that can be read only once, such as a process substitution of bash, is copied before it is used."""
    tasks(3)
    line = f"{SCRIPTS}/ng_collect_rollouts +agent_url={serve().url} +input_jsonl_fpath=<(head -2 tasks.jsonl) +output_jsonl_fpath=r.jsonl"
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, capture_output=True, pass_fds=())
    assert len(read_rows(tmp_path / "r.jsonl")) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("broken.jsonl.gz", "input_jsonl_fpath broken.jsonl.gz cannot be read"),
        ("broken.jsonl.zst", "input_jsonl_fpath broken.jsonl.zst cannot be read"),
        ("broken.parquet", "input_jsonl_fpath broken.parquet cannot be read"),
        ("file:///nowhere/t.jsonl", "cannot be read: No such file"),
        ("http://127.0.0.1:1/t.jsonl", "http://127.0.0.1:1/t.jsonl cannot be read: Connect call failed"),
        ("nosuch://bucket/t.jsonl", "input_jsonl_fpath nosuch://bucket/t.jsonl: Protocol not known"),
    ],
)
def test_input_that_cannot_be_read_is_a_usage_error(
    command: Callable[..., Ran], tmp_path: Path, source: str, message: str
) -> None:
    """An input that is damaged, missing or unreachable is one line on stderr with exit code 2."""
    if source.startswith("broken"):
        (tmp_path / source).write_bytes(b"PAR1 or anything else")
    ran = command(PACKAGED_AGENT, f"+input_jsonl_fpath={source}", "+output_jsonl_fpath=r.jsonl")
    assert (ran.code, message in ran.stderr, ran.stderr.count("\n")) == (2, True, 1), ran.stderr


def test_input_can_be_in_a_bucket(command: Callable[..., Ran], tmp_path: Path, s3: dict[str, str]) -> None:
    """A compressed input is read from a bucket by its URL; a missing one is one line on stderr with exit code 2."""
    import fsspec
    import zstandard

    rows = (ROOT / "examples" / "arithmetic.jsonl").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").pipe_file("bucket/in/t.jsonl.zst", zstandard.ZstdCompressor().compress(rows))
    run = [PACKAGED_AGENT, "+output_jsonl_fpath=r.jsonl", "+limit=5"]
    assert command(*run, "+input_jsonl_fpath=s3://bucket/in/t.jsonl.zst", env=s3).code == 0
    assert len(read_rows(tmp_path / "r.jsonl")) == 5
    ran = command(*run, "+input_jsonl_fpath=s3://bucket/in/none.jsonl", env=s3)
    assert (ran.code, ran.stderr.count("\n")) == (2, 1)
    assert "s3://bucket/in/none.jsonl cannot be read: " in ran.stderr


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.jsonl.zst", "t.jsonl.bz2", "t.jsonl.xz", "t.parquet"])
@pytest.mark.parametrize(("length", "code"), [(100_000, 0), (3_000_000, 2)])
def test_line_of_the_input_has_a_maximum_length(
    command: Callable[..., Ran], tmp_path: Path, name: str, length: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that is too long is one line of error with its number, in every format, before anything is sent."""
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1_500_000)  # more than the chunks in which files are copied
    rows = [json.dumps({"responses_create_params": {"input": "1 + 1 " + "x" * size}}) for size in (10, length)]
    write_as(tmp_path / name, "\n".join([*rows, *rows]) + "\n")
    ran = command(f"+input_jsonl_fpath={name}", "+output_jsonl_fpath=r.jsonl", PACKAGED_AGENT, "+limit=2")
    assert ran.code == code, ran
    if code:
        message = f"input_jsonl_fpath {name}: line 2 is longer than 1.5 MB: put one task on each line"
        assert ran.stderr.strip().splitlines()[-1].endswith(message)


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.jsonl.zst"])
def test_compressed_line_of_gigabytes_takes_little_memory(tmp_path: Path, name: str) -> None:
    """A line that decompresses to a gigabyte is refused at the maximum length, without having it in memory."""
    import zstandard

    packer: Any = zlib.compressobj(wbits=31) if name.endswith("gz") else zstandard.ZstdCompressor().compressobj()
    blanks = b" " * 10_000_000
    (tmp_path / name).write_bytes(b"".join([*(packer.compress(blanks) for _ in range(100)), packer.flush()]))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="line 1 is longer than 256 MB"), local_input(str(tmp_path / name)):
            pass
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()
