"""Lines of a large file by offset and length."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from ng_rollouts.storage.line_index import copy_lines, encode_span


def test_line_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    """A line of which the file has lost the end is not copied as if it were complete."""
    path = tmp_path / "lines"
    path.write_bytes(b"whole\ncut")
    with path.open("rb") as file, pytest.raises(OSError, match="another program has cut off the file"):
        copy_lines(file.fileno(), [encode_span(0, 6), encode_span(6, 4)], io.BytesIO())
