"""Serves a page and the rows that it requests, on this machine only. Open pages follow a run that writes the file."""

from __future__ import annotations

import json
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ng_rollouts.console import log, print_json, print_result, prints_only_json
from ng_rollouts.errors import ConfigError, NgRolloutsError, UsageError
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.report.page import head_of
from ng_rollouts.report.served_file import ServedFile
from ng_rollouts.report.task_index import AgentNumbers
from ng_rollouts.types import Json

_HOSTS = ("127.0.0.1", "localhost")

_POLL_S = 0.5
"""How often a file is checked for changes."""

_KEEP_ALIVE_S = 10.0
"""How often an idle page is sent a comment, which fails once the page is closed."""

_GRACE_S = 5.0
"""How long a server whose run has ended waits for a page to be opened, or opened again."""

_COMMANDS = ("pause", "resume", "drain")
"""The commands that a page may send to the run of its file, besides `status`."""

_MAX_COMMAND_BYTES = 1000

_MAX_PENDING = 1000
"""Events that wait for a page which does not read them. Beyond them, it has to load the index again."""

_RELOAD = b'event: reload\ndata: {"file": 0}\n\n'


class ServedPage:
    """The files of a page, and the open pages that follow them."""

    def __init__(self, files: Sequence[ServedFile], agent_numbers: AgentNumbers, score: str) -> None:
        self.files = files
        self._agent_numbers = agent_numbers
        self._score = score
        self._followers: set[queue.Queue[bytes]] = set()
        # Number of changes that open pages were sent, besides their status.
        self._version = 0
        self._lock = threading.Lock()

    @property
    def follower_count(self) -> int:
        """Number of open pages."""
        return len(self._followers)

    def html(self) -> bytes:
        """The page as it is at this moment."""
        version = self._version  # before the data, which must not be older
        return head_of([file.data() for file in self.files], self._agent_numbers, self._score, version=version)

    def index(self) -> Json:
        """Everything that a page needs to start again when a file was read anew."""
        data = [file.data() for file in self.files]
        return {
            "files": [each.overview for each in data],
            "columns": [each.columns for each in data],
            "agents": list(self._agent_numbers.numbers),
        }

    @contextmanager
    def followed(self, version: str) -> Any:
        """A queue of events for one open page.

        Args:
            version: that of the page when it was loaded. If it has changed since, the page has to load the index.
        """
        events: queue.Queue[bytes] = queue.Queue()
        with self._lock:
            if version != str(self._version):
                events.put(_RELOAD)
            self._followers.add(events)
        try:
            yield events
        finally:
            with self._lock:
                self._followers.discard(events)

    def poll(self) -> None:
        """Send what has changed to all open pages."""
        for number, file in enumerate(self.files):
            try:
                was_read, additions = file.poll()
            except (NgRolloutsError, OSError):
                continue  # such as a file that is being replaced; the next poll reads it
            if was_read:
                self._send("reload", {"file": number})
            elif additions:
                self._send("rows", {"file": number, "rows": additions, "agents": list(self._agent_numbers.numbers)})
            if status := file.status():
                self._send("status", {"file": number, **status})

    def _send(self, name: str, value: Json) -> None:
        event = f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()
        with self._lock:
            self._version += name != "status"
            for events in self._followers:
                if events.qsize() < _MAX_PENDING:
                    events.put(event)
                elif events.qsize() == _MAX_PENDING:
                    events.put(_RELOAD)


class _Handler(BaseHTTPRequestHandler):
    """Answers requests for the page, for rows, searches and events.

    Rollouts are private, and other users and web pages can reach a local port. A request therefore needs the secret
    token in its path, and a Host header of this machine. The Host header stops DNS rebinding: a web page whose own
    name is made to resolve to 127.0.0.1 still sends that name.
    """

    def __init__(self, page: ServedPage, token: str, *request: object) -> None:
        # Set first: the base class handles the request in its constructor.
        self._page, self._token = page, token
        super().__init__(*request)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer with the page, its index, rows, the tasks that a search finds, or events."""
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        answers: dict[str, Callable[[], None]] = {
            "": lambda: self._send(self._page.html(), "text/html; charset=utf-8"),
            "index": lambda: self._send(dumps(self._page.index()), "application/json"),
            "rows": lambda: self._send_rows(query),
            "search": lambda: self._send(dumps(self._page.files[0].search(query.get("q", ""))), "application/json"),
            "events": lambda: self._send_events(query.get("version", "")),
            "control": lambda: self._send_control("status"),
        }
        self._answer(answers)

    def do_POST(self) -> None:
        """Send a command of the page to the run.

        Other pages do not know the token. Besides, browsers name the origin of a POST, and send JSON to another origin
        only if its server allows it, which this one does not.
        """
        is_own = self.headers.get("origin") == f"http://{self.headers.get('host', '')}"
        if not is_own or self.headers.get("content-type") != "application/json":
            self.send_error(403)
        else:
            self._answer({"control": self._take_command})

    def _answer(self, answers: Mapping[str, Callable[[], None]]) -> None:
        """Answer a request from this machine with the token and one of these names."""
        host, path = self.headers.get("host", "").rpartition(":")[0], urlsplit(self.path).path
        token, _, name = path.removeprefix("/").partition("/")
        if host not in _HOSTS:
            self.send_error(403)
        elif not secrets.compare_digest(token, self._token) or name not in answers or path == f"/{token}":
            self.send_error(404)
        else:
            answers[name]()

    def _take_command(self) -> None:
        """Send the command in the body to the run, if a page may send it."""
        command = None
        with suppress(ValueError, AttributeError):
            length = int(self.headers.get("content-length", ""))
            command = loads(self.rfile.read(length)).get("command") if 0 < length <= _MAX_COMMAND_BYTES else None
        if command in _COMMANDS:
            self._send_control(command)
        else:
            self._send_reply(
                {
                    "ok": False,
                    "error": f"a page sends only the commands {', '.join(_COMMANDS[:-1])} and {_COMMANDS[-1]}",
                }
            )

    def _send_control(self, command: str) -> None:
        """The reply of the run of the first file; one with `error` if no run answers."""
        try:
            reply = self._page.files[0].control(command)
        except UsageError as error:
            reply = {"ok": False, "error": str(error)}
        self._send_reply(reply)

    def _send_reply(self, reply: Json) -> None:
        self._send(dumps(reply), "application/json")

    def _send_rows(self, query: dict[str, str]) -> None:
        try:
            file, task = self._page.files[int(query["file"])], int(query["task"])
        except (KeyError, ValueError, IndexError):
            self.send_error(404)
        else:
            self._send(file.rows_of(task), "text/plain; charset=utf-8")

    def _send_events(self, version: str) -> None:
        """Server-sent events (HTML, "Server-sent events") until the page is closed."""
        self._send_head("text/event-stream", None)
        with self._page.followed(version) as events, suppress(OSError):
            while True:
                try:
                    event = events.get(timeout=_KEEP_ALIVE_S)
                except queue.Empty:
                    event = b": \n\n"
                self.wfile.write(event)
                self.wfile.flush()

    def _send(self, body: bytes, content_type: str) -> None:
        self._send_head(content_type, len(body))
        self.wfile.write(body)

    def _send_head(self, content_type: str, length: int | None) -> None:
        self.send_response(200)
        self.send_header("content-type", content_type)
        if length is not None:
            self.send_header("content-length", str(length))
        # Browsers must not keep rollouts on disk, and must not take the text of one for HTML.
        self.send_header("cache-control", "no-store")
        self.send_header("x-content-type-options", "nosniff")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Discard the log of requests: the terminal shows only the address."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore errors of a connection: a browser may close one at any time."""


def serve(page: ServedPage, port: int, *, has_ended: Callable[[], bool] | None = None) -> None:
    """Serve until interrupted.

    Args:
        has_ended: whether the run that the page belongs to has ended. Then the last open page is waited for.

    Raises:
        ConfigError: the port is taken.
    """
    token = secrets.token_urlsafe(12)
    try:
        listening = _Server(("127.0.0.1", port), partial(_Handler, page, token))
    except OSError as error:
        fix = "choose another port with +port=, or 0 for any free one"
        raise ConfigError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}: {fix}") from error
    with listening as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/{token}/"
        print_result(f"{url} (Ctrl-C stops the server)")
        if prints_only_json():
            print_json({"url": url})
        threading.Thread(target=server.serve_forever, daemon=True).start()
        needed_until = time.monotonic() + _GRACE_S
        try:
            while time.monotonic() < needed_until:
                page.poll()
                if has_ended is None or not has_ended() or page.follower_count:
                    needed_until = time.monotonic() + _GRACE_S
                time.sleep(_POLL_S)
        except KeyboardInterrupt:  # as announced
            log("stopped")
