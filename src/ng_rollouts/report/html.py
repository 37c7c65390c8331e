"""The page itself: its data compressed and escaped, its script known to the browser by its hash alone."""

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

_BLOCK_BYTES = 512 * 1024


class Blocks:
    """Rows in compressed blocks, each an element of the page, written to a file as they fill up."""

    def __init__(self, file: BinaryIO, number: int, most_bytes: float) -> None:
        self._file = file
        self._number = number
        self._most_bytes = most_bytes
        self._lines: list[bytes] = []
        self._size = self._count = self._written = 0

    def add(self, line: bytes) -> tuple[int, int]:
        """Take a row in; its block and line, both -1 if there is no room for more."""
        if self._written > self._most_bytes:
            return -1, -1
        self._lines.append(line)
        self._size += len(line)
        place = self._count, len(self._lines) - 1
        if self._size >= _BLOCK_BYTES:
            self.close()
        return place

    def close(self) -> None:
        """Write the block that is not full."""
        if not self._lines:
            return
        data = _packed(b"\n".join(self._lines))
        self._file.write(f'<script type="text/plain" id="block-{self._number}-{self._count}">'.encode())
        self._file.write(data + b"</script>\n")
        self._written += len(data)
        self._lines, self._size, self._count = [], 0, self._count + 1


def page_head(title: str, overview: Json, indices: list[Json], *, served: bool) -> bytes:
    """All of the page but the blocks."""
    script, style = _part("page.js"), _part("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    packed = "\n".join(
        f'<script type="text/plain" id="index-{number}">{_packed(dumps(index)).decode()}</script>'
        for number, index in enumerate(indices)
    )
    parts = {
        "@TITLE@": html.escape(title),
        "@SCRIPT_HASH@": digest,
        "@CONNECT@": "'self'" if served else "'none'",
        "@STYLE@": style,
        "@SCRIPT@": script,
        "@OVERVIEW@": _embedded(overview),
        "@INDICES@": packed,
    }
    page = _part("page.html")
    pieces: list[str] = []
    while page:
        found = [(place, name) for name in parts if (place := page.find(name)) >= 0]
        if not found:
            break
        place, name = min(found)
        pieces += [page[:place], parts[name]]
        page = page[place + len(name) :]
    return "".join([*pieces, page]).encode(errors="replace")


def write_page(target: Path, head: bytes, blocks: BinaryIO) -> None:
    """Put the page in place, whole or not at all.

    Raises:
        OSError: it could not be written.
    """
    with replacing(target) as temporary, temporary.open("wb") as file:
        file.write(head)
        blocks.seek(0)
        shutil.copyfileobj(blocks, file)
        file.write(b"</body>\n</html>\n")


def _packed(data: bytes) -> bytes:
    return base64.b64encode(gzip.compress(data, 6, mtime=0))


def _embedded(value: Json) -> str:
    """JSON that no parser of HTML can take for anything else."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _part(name: str) -> str:
    return (files("ng_rollouts.report") / name).read_text(encoding="utf-8")
