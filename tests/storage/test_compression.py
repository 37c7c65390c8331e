"""Compressed files are read and written without loss, and damage is detected."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.storage.compression import EXTENSIONS, compress_in_place, decompress, open_decompressed
from tests.conftest import files_in

ROWS = b"a row\n" * 100_000


def compressed(extension: str, data: bytes) -> bytes:
    """Compress data as the command-line tools do."""
    return gzip.compress(data) if extension == ".gz" else zstandard.ZstdCompressor().compress(data)


def decompressed(extension: str, data: bytes) -> bytes:
    """Decompress data as the content of a file with this extension."""
    plain = io.BytesIO()
    decompress(f"r.jsonl{extension}", io.BytesIO(data), plain)
    return plain.getvalue()


@given(st.sampled_from([".gz", ".zst"]), st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_concatenated_compressed_files_are_read_to_the_end(extension: str, parts: list[bytes]) -> None:
    """A file of several compressed parts, such as `cat a.gz b.gz`, is read to the end of the last part."""
    assert decompressed(extension, b"".join(compressed(extension, part) for part in parts)) == b"".join(parts)


@given(st.sampled_from([".gz", ".zst"]), st.binary(min_size=1, max_size=3000), st.data())
def test_truncated_compressed_file_is_an_error(extension: str, data: bytes, drawn: st.DataObject) -> None:
    """A compressed file that was cut off at any byte is an error with a reason, so no row is silently missing."""
    whole = compressed(extension, data)
    end = drawn.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(OSError, match=r".") as error:
        decompressed(extension, whole[:end])
    assert error.value.strerror


@pytest.mark.parametrize("extension", [*EXTENSIONS, ""])
def test_compressed_file_has_the_same_content_and_permissions(tmp_path: Path, extension: str) -> None:
    """Decompressing restores every byte, and compressing keeps the permissions; a plain name stays a plain file."""
    plain, target = tmp_path / "p", tmp_path / f"r.jsonl{extension}"
    plain.write_bytes(ROWS)
    plain.chmod(0o640)
    compress_in_place(plain, target)
    plain.replace(target)
    with open_decompressed(target) as file:
        assert file.read() == ROWS
    assert files_in(tmp_path).keys() == {target.name}
    assert target.stat().st_mode & 0o777 == 0o640
