"""The page from a server on this machine, which reads rows out of the files as they are asked for."""

from __future__ import annotations

import secrets
from array import array
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ng_rollouts.console import print_result
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.report.row_view import row_view, text_of_message
from ng_rollouts.storage.compression import open_decompressed

_HOSTS = ("127.0.0.1", "localhost")


@dataclass(slots=True)
class RowOffsets:
    """Where the rows of a file of the page are, by their place in its index."""

    paths: list[Path] = field(default_factory=list)
    files: array[int] = field(default_factory=lambda: array("b"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    tasks: array[int] = field(default_factory=lambda: array("q"))

    def add(self, path: Path, offset: int, task: int) -> None:
        """The next place."""
        if path not in self.paths:
            self.paths.append(path)
        self.files.append(self.paths.index(path))
        self.offsets.append(offset)
        self.tasks.append(task)

    def rows(self, start: int, end: int) -> bytes:
        """The rows at these places, a line each."""
        places = range(max(0, start), min(end, len(self.offsets)))
        return b"\n".join(row_view(loads(self._line(place))) for place in places)

    def holding(self, text: str) -> list[int]:
        """The tasks in which this was asked or answered, in whatever case."""
        found: dict[int, None] = {}
        for place, task in enumerate(self.tasks):
            if task not in found and text.lower() in text_of_message(loads(self._line(place))):
                found[task] = None
        return list(found)

    def _line(self, place: int) -> bytes:
        with open_decompressed(self.paths[self.files[place]]) as file:
            file.seek(self.offsets[place])
            return file.readline()


class _Handler(BaseHTTPRequestHandler):
    """Answers to who knows the path, under no name but this machine's."""

    def __init__(self, page: bytes, places: list[RowOffsets], token: str, *of_request: object) -> None:
        self._page, self._places, self._token = page, places, token
        super().__init__(*of_request)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """A page, rows, or tasks found."""
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
            self._send(dumps(self._places[0].holding(query.get("q", ""))), "application/json")
        else:
            self.send_error(404)

    def _send_rows(self, query: dict[str, str]) -> None:
        try:
            places = self._places[int(query["file"])]
            rows = places.rows(int(query["from"]), int(query["to"]))
        except (KeyError, ValueError, IndexError, OSError):
            self.send_error(404)
        else:
            self._send(rows, "text/plain; charset=utf-8")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.send_header("x-content-type-options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the terminal is for the address."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Nothing: a browser that leaves early is no error."""


def serve(page: bytes, places: list[RowOffsets], port: int) -> None:
    """Serve until interrupted.

    Raises:
        OSError: the port is taken.
    """
    token = secrets.token_urlsafe(12)
    with _Server(("127.0.0.1", port), partial(_Handler, page, places, token)) as server:
        print_result(f"http://127.0.0.1:{server.server_address[1]}/{token}/ (Ctrl-C ends it)")
        server.serve_forever()
