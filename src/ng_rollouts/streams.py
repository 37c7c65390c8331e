"""Standard streams that never block: what a full pipe or a stopped terminal does not take now is kept for later.

A run writes messages from its event loop. A write to a pipe without a reader would stop all rollouts and signals.
"""

from __future__ import annotations

import codecs
import io
import math
import os
import select
import stat
import time
from collections import deque
from typing import TextIO

LOOKALIKES = "ng_rollouts.lookalikes"
"""Name of an encoding error handler: similar ASCII characters for some characters, escape sequences for the others."""

_MAX_MESSAGE_BYTES = 1 << 20
"""How many bytes of messages are kept for a reader. Beyond them, the oldest texts are dropped. Results are all kept."""

_LOOKALIKES = (
    {"±": "+-", "…": "...", "–": "-", "μ": "mean", "σ": "sd", "—": "-", "→": "->"}
    | dict(zip("▏▎▍▌▋▊▉", "1234567", strict=True))
    | dict(zip("▁▂▃▄▅▆▇█", ".:-=+*%#", strict=True))
)
"""Characters of this program's messages, and what a terminal or log without them shows."""

_CHUNK_BYTES = 512
"""Written at once to a descriptor that blocks: POSIX requires that a pipe which is ready takes as much (PIPE_BUF)."""

_POLL_S = 0.1


class StreamWrapper(io.TextIOBase):
    """A text stream in place of another one, for subclasses that write to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override] # a writeable attribute of the base class
        """The encoding of the stream that this one replaces."""
        return self._stream.encoding

    def fileno(self) -> int:
        """The descriptor of the stream that this one replaces."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Always true."""
        return True


class PatientStream(StreamWrapper):
    """A text stream over a pipe, a terminal or a socket, whose writes return at once.

    Characters that the encoding does not have are written as escape sequences.
    """

    def __init__(self, stream: TextIO, *, keeps_all: bool = False) -> None:
        super().__init__(stream)
        self._fd = _reopened(stream.fileno())
        self._max_pending = math.inf if keeps_all else _MAX_MESSAGE_BYTES
        self._pending: deque[memoryview] = deque()
        self._is_broken = False

    @property
    def is_stalled(self) -> bool:
        """Whether earlier texts still wait, so that progress should be left out."""
        return bool(self._pending)

    def write(self, text: str) -> int:
        """Write as much as the stream takes, and keep the rest.

        Raises:
            OSError: the stream is broken, such as a pipe without a reader; only once.
        """
        if not self._is_broken and text:
            self._pending.append(memoryview(text.encode(self.encoding, LOOKALIKES)))
            self._drain()
            # Not the first one, which may have been written in part.
            while len(self._pending) > 2 and self._pending_bytes > self._max_pending:
                del self._pending[1]
        return len(text)

    def flush(self) -> None:
        """Write what is kept, as far as the stream takes it."""
        if not self._is_broken:
            self._drain()

    def finish(self, seconds: float) -> int:
        """Write what is kept, and wait until a slow reader has taken nothing for some seconds.

        Returns:
            The number of bytes that it has not taken.
        """
        deadline = time.monotonic() + seconds
        while self._pending and time.monotonic() < deadline:
            before = self._pending_bytes
            self.flush()
            if self._pending_bytes < before:
                deadline = time.monotonic() + seconds
            elif self._pending:
                _is_ready(self._fd, _POLL_S)
        return self._pending_bytes

    @property
    def _pending_bytes(self) -> int:
        return sum(map(len, self._pending))

    def _drain(self) -> None:
        try:
            while self._pending:
                if not _is_ready(self._fd, 0.0):
                    return
                # Taken out first: a signal handler that raises an exception here must not cause a second write.
                data = self._pending.popleft()
                try:
                    written = os.write(self._fd, data[:_CHUNK_BYTES])
                except BlockingIOError:
                    written = 0
                if rest := data[written:]:
                    self._pending.appendleft(rest)
                if not written:
                    return
        except OSError:
            self._is_broken = True
            self._pending.clear()
            raise


def patient(stream: TextIO, *, keeps_all: bool = False) -> TextIO:
    """A stream that never blocks in place of one over a pipe, a terminal or a socket; others are returned.

    Args:
        keeps_all: whether all texts are kept for a reader, such as results, or only the latest megabyte.
    """
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # not over a descriptor
        return stream
    if isinstance(stream, io.TextIOWrapper) and stat.S_ISREG(mode):
        stream.reconfigure(errors=LOOKALIKES)
        return stream
    return PatientStream(stream, keeps_all=keeps_all)  # type: ignore[return-value] # it has the methods that printing needs


def finish(stream: TextIO, seconds: float) -> int:
    """Write what a stream has kept, as `PatientStream.finish` does; the number of bytes that were not taken."""
    if isinstance(stream, PatientStream):
        return stream.finish(seconds)
    stream.flush()
    return 0


def _lookalike(error: UnicodeError) -> tuple[str | bytes, int]:
    """The error handler of `LOOKALIKES`, for one character at a time."""
    if isinstance(error, UnicodeEncodeError):
        lookalike = _LOOKALIKES.get(error.object[error.start])
        if lookalike is not None:
            return lookalike, error.start + 1
        error.end = error.start + 1
    return codecs.backslashreplace_errors(error)


codecs.register_error(LOOKALIKES, _lookalike)


def _reopened(fd: int) -> int:
    """Another description of the same pipe or terminal that does not block; the descriptor itself if there is none.

    O_NONBLOCK on the descriptor itself would also change it for the shell that the program shares it with.
    """
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return fd


def _is_ready(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))
