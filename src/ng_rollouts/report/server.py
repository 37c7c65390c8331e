"""Serves the page on this machine. Rows are read from their files on request."""

from __future__ import annotations

import secrets
from array import array
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ng_rollouts.console import print_json, print_result, prints_only_json
from ng_rollouts.errors import ConfigError
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.report.row_view import row_view, searchable_text
from ng_rollouts.storage.compression import open_decompressed

_HOSTS = ("127.0.0.1", "localhost")


@dataclass(slots=True)
class RowOffsets:
    """The file and offset of each row, in the order of the rollouts in a `TaskIndex`.

    The columns are arrays, which take 17 bytes per row: files can have millions of rows.

    Attributes:
        paths: the files that the rows are in.
        files: for each row, the position of its file in `paths`.
        offsets: for each row, its offset in bytes; in the decompressed file, if that is compressed.
        tasks: for each row, the position of its task in the index.
    """

    paths: list[Path] = field(default_factory=list)
    files: array[int] = field(default_factory=lambda: array("b"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    tasks: array[int] = field(default_factory=lambda: array("q"))

    def add(self, path: Path, offset: int, task: int) -> None:
        """Add the next row."""
        if path not in self.paths:
            self.paths.append(path)
        self.files.append(self.paths.index(path))
        self.offsets.append(offset)
        self.tasks.append(task)

    def rows(self, start: int, end: int) -> bytes:
        """The views of the rows from `start` to `end`, exclusive, one per line."""
        positions = range(max(0, start), min(end, len(self.offsets)))
        return b"\n".join(row_view(loads(self._line(position))) for position in positions)

    def search(self, text: str) -> list[int]:
        """The tasks with a message that contains a text, ignoring case."""
        matches: dict[int, None] = {}
        for position, task in enumerate(self.tasks):
            # One matching row is enough: the other rows of its task are not read.
            if task not in matches and text.lower() in searchable_text(loads(self._line(position))):
                matches[task] = None
        return list(matches)

    def _line(self, position: int) -> bytes:
        with open_decompressed(self.paths[self.files[position]]) as file:
            file.seek(self.offsets[position])
            return file.readline()


class _Handler(BaseHTTPRequestHandler):
    """Answers requests for the page, for rows and for searches.

    Rollouts are private, and other users and web pages can reach a local port. A request therefore needs the secret
    token in its path, and a Host header of this machine. The Host header stops DNS rebinding: a web page whose own
    name is made to resolve to 127.0.0.1 still sends that name.
    """

    def __init__(self, page: bytes, row_offsets: list[RowOffsets], token: str, *request: object) -> None:
        # Set first: the base class handles the request in its constructor.
        self._page, self._row_offsets, self._token = page, row_offsets, token
        super().__init__(*request)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer with the page, with rows, or with the tasks that a search finds."""
        host = self.headers.get("host", "").rpartition(":")[0]
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if host not in _HOSTS:
            self.send_error(403)
        elif url.path == f"/{self._token}/":
            self._send(self._page, "text/html; charset=utf-8")
        elif url.path == f"/{self._token}/rows":
            self._send_rows(query)
        elif url.path == f"/{self._token}/search":
            self._send(dumps(self._row_offsets[0].search(query.get("q", ""))), "application/json")
        else:
            self.send_error(404)

    def _send_rows(self, query: dict[str, str]) -> None:
        try:
            offsets = self._row_offsets[int(query["file"])]
            rows = offsets.rows(int(query["from"]), int(query["to"]))
        except (KeyError, ValueError, IndexError, OSError):
            self.send_error(404)
        else:
            self._send(rows, "text/plain; charset=utf-8")

    def _send(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        # Browsers must not keep rollouts on disk, and must not take the text of one for HTML.
        self.send_header("cache-control", "no-store")
        self.send_header("x-content-type-options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Discard the log of requests: the terminal shows only the address."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore errors of a connection: a browser may close one at any time."""


def serve(page: bytes, row_offsets: list[RowOffsets], port: int) -> None:
    """Serve until interrupted.

    Raises:
        ConfigError: the port is taken.
    """
    token = secrets.token_urlsafe(12)
    try:
        listening = _Server(("127.0.0.1", port), partial(_Handler, page, row_offsets, token))
    except OSError as error:
        fix = "choose another port with +port=, or 0 for any free one"
        raise ConfigError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}: {fix}") from error
    with listening as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/{token}/"
        print_result(f"{url} (Ctrl-C stops the server)")
        if prints_only_json():
            print_json({"url": url})
        server.serve_forever()
