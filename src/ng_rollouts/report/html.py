"""Assembles the HTML page: script, style, compressed data and rows in one self-contained file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO

from ng_rollouts.jsonl import dumps
from ng_rollouts.storage.atomic import replacing
from ng_rollouts.types import Json

NOT_IN_PAGE = -1
"""Block and line of a row that the page does not contain."""

_BLOCK_BYTES = 512 * 1024
"""Size of a block before compression. The browser decompresses a whole block to show one row."""


class Blocks:
    """Rows in compressed blocks. Each block is an element of the page, and is written to a file as soon as it is full.

    Args:
        number: the number of the rollouts file that the rows are from, 0 or 1.
        max_bytes: compressed size after which no more rows are added.
    """

    def __init__(self, file: BinaryIO, number: int, max_bytes: float) -> None:
        self._file = file
        self._number = number
        self._max_bytes = max_bytes
        self._lines: list[bytes] = []
        self._size = self._count = self._written = 0

    def add(self, line: bytes) -> tuple[int, int]:
        """Add a row, and return its block and its line in that block. Both are `NOT_IN_PAGE` if the page is full."""
        # Only written blocks count: the size of an open block is known after its compression. The page can therefore
        # exceed the maximum by one block.
        if self._written > self._max_bytes:
            return NOT_IN_PAGE, NOT_IN_PAGE
        self._lines.append(line)
        self._size += len(line)
        position = self._count, len(self._lines) - 1
        if self._size >= _BLOCK_BYTES:
            self.close()
        return position

    def close(self) -> None:
        """Write the open block, if it has rows."""
        if not self._lines:
            return
        data = _compressed(b"\n".join(self._lines))
        self._file.write(f'<script type="text/plain" id="block-{self._number}-{self._count}">'.encode())
        self._file.write(data + b"</script>\n")
        self._written += len(data)
        self._lines, self._size, self._count = [], 0, self._count + 1


def page_head(title: str, overview: Json, indices: list[Json], *, served: bool) -> bytes:
    """The page without its blocks, which follow at its end."""
    script, style = _part("page.js"), _part("page.css")
    # The Content-Security-Policy allows one script and style, by their hashes. Text of a rollout that became markup
    # by mistake could not run.
    compressed = "\n".join(
        f'<script type="text/plain" id="index-{number}">{_compressed(dumps(index)).decode()}</script>'
        for number, index in enumerate(indices)
    )
    values = {
        "@TITLE@": html.escape(title),
        "@SCRIPT_HASH@": _hash_of(script),
        "@STYLE_HASH@": _hash_of(style),
        "@CONNECT@": "'self'" if served else "'none'",
        "@STYLE@": style,
        "@SCRIPT@": script,
        "@OVERVIEW@": _embedded(overview),
        "@INDICES@": compressed,
    }
    rest = _part("page.html")
    pieces: list[str] = []
    # One pass from left to right, which never reads an inserted value: a title of "@SCRIPT@" stays text.
    while rest:
        placeholders = [(offset, name) for name in values if (offset := rest.find(name)) >= 0]
        if not placeholders:
            break
        offset, name = min(placeholders)
        pieces += [rest[:offset], values[name]]
        rest = rest[offset + len(name) :]
    # File names may have bytes that are not UTF-8, which are surrogates in `str` and cannot be encoded.
    return "".join([*pieces, rest]).encode(errors="replace")


def write_page(target: Path, head: bytes, blocks: BinaryIO) -> None:
    """Write the page atomically: head, blocks, end.

    Raises:
        OSError: it could not be written.
    """
    with replacing(target) as temporary, temporary.open("wb") as file:
        file.write(head)
        blocks.seek(0)
        shutil.copyfileobj(blocks, file)
        file.write(b"</body>\n</html>\n")


def _hash_of(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _compressed(data: bytes) -> bytes:
    """Data compressed and in base64, which has no `<` that could end its script element."""
    # Without mtime=0, the time of compression would be in the data, and a page could not be reproduced.
    return base64.b64encode(gzip.compress(data, 6, mtime=0))


def _embedded(value: Json) -> str:
    """JSON that can stand in a script element.

    `<`, `>` and `&` are escaped: `</script>` would end the element, and `<!--` changes how the rest of it is parsed
    (HTML, "Restrictions for contents of script elements").
    """
    text = json.dumps(value, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _part(name: str) -> str:
    return (files("ng_rollouts.report") / name).read_text(encoding="utf-8")
