"""Output of the command: results on stdout, messages on stderr. A closed pipe does not end a run.

Messages and results quote servers, rows and files. All of them pass through here, where secrets are masked, and where
characters that control a terminal are shown as escape sequences.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Protocol, TextIO

from ng_rollouts.errors import NgRolloutsError
from ng_rollouts.redaction import mask_known, mask_values, redact
from ng_rollouts.streams import StreamWrapper

# a context variable, so that a run of the Python API is quiet while other code of the process is not
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_only_json: ContextVar[bool] = ContextVar("only_json", default=False)
_log = logging.getLogger("ng_rollouts")

_bars: list[Bar] = []
"""The progress bar on the last line of the terminal, if there is one. Messages are printed above it."""

_COLORS = {"red": "31", "yellow": "33"}

# Unicode's categories Cc, Cf, Cs, Zl and Zp: controls, invisible format characters such as those for bidirectional
# text, surrogates, and separators of lines. Written out, because a loop over all characters takes a third of a second.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u2064\u2066-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)
_SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": "\t"}
"""Escape sequences of controls that have a name. A tab only moves the cursor, and stays."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Send output to the logger `ng_rollouts` within the block, because the Python API runs in another program."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


class Bar(Protocol):
    """A progress bar."""

    def clear(self) -> None:
        """Erase it from its line."""
        ...

    def show(self) -> None:
        """Draw it."""
        ...


@contextlib.contextmanager
def above(bar: Bar) -> Iterator[None]:
    """Print messages and results above a progress bar while the block runs."""
    _bars.append(bar)
    try:
        yield
    finally:
        _bars.remove(bar)


@contextlib.contextmanager
def _without_bar() -> Iterator[None]:
    for bar in _bars:
        bar.clear()
    try:
        yield
    finally:
        for bar in _bars:
            bar.show()


def is_terminal(stream: TextIO) -> bool:
    """True for a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def width_of(stream: TextIO) -> int:
    """The number of columns of a terminal; 0 if it is not known."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # not a terminal, or not over a descriptor
        return 0


def colored(text: str, color: str, stream: TextIO) -> str:
    """Text in a color, if the stream shows colors.

    `NO_COLOR` and `FORCE_COLOR` take precedence over the kind of stream (https://no-color.org, https://force-color.org).
    """
    if os.environ.get("NO_COLOR") or not (os.environ.get("FORCE_COLOR") or is_terminal(stream)):
        return text
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m"


@contextlib.contextmanager
def only_json(*, wanted: bool = True) -> Iterator[None]:
    """Print JSON alone to stdout, and errors alone to stderr, within the block."""
    token = _only_json.set(wanted)
    try:
        yield
    finally:
        _only_json.reset(token)


def prints_only_json() -> bool:
    """Whether lines for people are left out."""
    return _only_json.get()


def is_quiet() -> bool:
    """Whether progress is left out: output goes to the logger, or is JSON alone."""
    return _quiet.get() or _only_json.get()


def shown(text: str) -> str:
    """Text in one line that a terminal shows as it is: control characters are escape sequences, such as `\\x1b`."""
    return _CONTROLS.sub(_escaped, text)


def counted(number: int, noun: str, *verbs: str) -> str:
    """For example `1 rollout`, or `2 rollouts`.

    Args:
        verbs: what follows a single one, and what follows others: `remains` and `remain`.
    """
    words = [f"{number} {noun}" if number == 1 else f"{number} {noun}s"]
    return " ".join([*words, *(verbs[:1] if number == 1 else verbs[1:])])


def json_lines(value: Any, *, indent: int = 4, in_ascii: bool = True) -> list[str]:
    """The lines of indented JSON, with secrets masked and control characters as escape sequences of JSON."""
    lines = json.dumps(mask_values(value), indent=indent, ensure_ascii=in_ascii).split("\n")
    return [_CONTROLS.sub(_escaped_in_json, line) for line in lines]


def print_result(result: str) -> None:
    """Print a line for people to stdout."""
    if not _only_json.get():
        _print_result(shown(mask_known(result)))


def print_json(value: Any, *, title: str = "") -> None:
    """Print indented JSON to stdout, below an empty line and a title if there is one."""
    heading = ["", shown(mask_known(title))] if title and not _only_json.get() else []
    _print_result("\n".join([*heading, *json_lines(value)]))


def print_text(text: str) -> None:
    """Print this program's own text to stdout as it is, such as the help. A reader such as `| head` may stop early."""
    try:
        print(text, end="", flush=True)
    except OSError:
        _redirect_to_devnull(1)


def _print_result(result: str) -> None:
    if _quiet.get():
        _log.info("%s", result)
        return
    try:
        with _without_bar():
            print(f"{result}\n", end="", flush=True)  # one write, so that no other program writes into the line
    except OSError as error:
        _redirect_to_devnull(1)  # the interpreter flushes stdout when it exits, and would report the error again
        log(f"warning: stdout cannot be written ({error.strerror}): further results are not printed")


def log(message: str) -> None:
    """Print a line to stderr. With `only_json`, only errors are printed."""
    if message.startswith("error: ") or not _only_json.get():
        _print_message(shown(redact(message)))


def log_error(error: NgRolloutsError) -> None:
    """Print the message of an error to stderr."""
    message, *details = error.lines
    with only_json(wanted=False):
        for line in (f"error: {message}", *details):
            log(line)


def log_lines(text: str) -> None:
    """Print several lines to stderr, such as a traceback."""
    if text:
        _print_message("\n".join(map(shown, redact(text).split("\n"))))


def _print_message(message: str) -> None:
    if _quiet.get():
        _log.warning("%s", message) if message.startswith("warning") else _log.info("%s", message)
        return
    try:
        with _without_bar():
            print(f"{_with_colored_label(message)}\n", end="", file=sys.stderr, flush=True)
    except OSError:
        _redirect_to_devnull(2)


class MaskedStream(StreamWrapper):
    """A stream in front of another one, for text of libraries: secrets are masked, line by line."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._line = ""

    def write(self, text: str) -> int:
        """Write complete lines, and keep the rest."""
        *lines, self._line = f"{self._line}{text}".split("\n")
        for line in lines:
            self._stream.write(f"{redact(line)}\n")
        return len(text)

    def flush(self) -> None:
        """Write everything to the other stream."""
        if self._line:
            self._stream.write(redact(self._line))
            self._line = ""
        self._stream.flush()


def _with_colored_label(message: str) -> str:
    for label, color in (("error:", "red"), ("warning:", "yellow")):
        if message.startswith(label):
            return colored(label, color, sys.stderr) + message.removeprefix(label)
    return message


def open_closed_streams() -> None:
    """Open /dev/null for standard streams that are closed.

    POSIX gives a new file the lowest free descriptor. An output file with descriptor 1 would receive all prints.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            _redirect_to_devnull(number)
        # Python sets a stream to None if its descriptor was closed at startup
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _redirect_to_devnull(number: int) -> None:
    with contextlib.suppress(OSError):
        devnull = os.open(os.devnull, os.O_RDWR)
        if devnull != number:  # equal if the descriptor was closed and is the lowest free one
            os.dup2(devnull, number)
            os.close(devnull)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if short := _SHORT_ESCAPES.get(match[0]):
        return short
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escaped_in_json(match: re.Match[str]) -> str:
    # JSON has four digits, and two escape sequences for a character beyond them (RFC 8259, section 7)
    return r"\u007f" if match[0] == "\x7f" else json.dumps(match[0])[1:-1]
