"""Decode escape sequences in text that others wrote, and map positions back to the original text.

Servers quote what they received: in JSON strings, in URLs, in HTML. A search for a word has to look behind the quoting.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

_MAX_ROUNDS = 3
"""How often text is decoded. JSON within JSON within a URL occurs; deeper nesting does not."""

# The quantifiers are possessive or bounded, because texts are long and not trusted: a search takes linear time.
_ESCAPE = re.compile(
    # JSON, Python and JavaScript; several backslashes are one that was escaped again
    r"\\++(?:u(?P<unicode>[0-9a-fA-F]{4}(?:\\++u[dD][c-fC-F][0-9a-fA-F]{2})?)|u\{(?P<braced>[0-9a-fA-F]{1,6})\}"
    r"|U(?P<long>[0-9a-fA-F]{8})|x(?P<hex>[0-9a-fA-F]{2})|(?P<letter>[abfnrtv])|(?P<itself>[^\w\s\\])|(?P<slash>))"
    # percent-encoding (RFC 3986, section 2.1): one letter of ASCII, or the bytes of other letters
    r"|(?P<percent>%[0-7][0-9a-fA-F]|(?:%[89a-fA-F][0-9a-fA-F]){1,100})"
    r"|&(?:\#(?P<decimal>[0-9]{1,7})|\#[xX](?P<html>[0-9a-fA-F]{1,6})|(?P<entity>amp|lt|gt|quot|apos|nbsp));"
)
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": " "}

_LINE_BREAK = re.compile(r"[ \t]{0,8}\\?[\r\n\u2028\u2029]\s*+|[\u00ad\u200b-\u200d\u2060\ufeff]")
"""What can divide a word: a line break with the indentation of the next line, or an invisible letter."""


_SEPARATOR = re.compile(r"[\W_]++")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a text, and the part of its source that it comes from.

    Attributes:
        is_decoded: whether its letters are one escape sequence in the source; otherwise they are the same there.
    """

    start: int
    source_start: int
    source_length: int
    is_decoded: bool


@dataclass(frozen=True, slots=True)
class View:
    """A text, or what is left of it after decoding.

    Attributes:
        source: the text that it was made from; None for the original.
        pieces: where its parts come from.
    """

    text: str
    source: View | None = None
    pieces: tuple[_Piece, ...] = ()

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The part of the original text that a part of this text, which is not empty, comes from."""
        if self.source is None:
            return start, end
        return self.source.span(self._source_of(start)[0], self._source_of(end - 1)[1])

    def decoded(self) -> View:
        """The text with its escape sequences decoded once; itself if it has none."""
        return self._replaced(_ESCAPE, _decode)

    def joined(self) -> View:
        """The text without line breaks and invisible letters; itself if it has none."""
        return self._replaced(_LINE_BREAK, lambda _: "")

    def dense(self) -> View:
        """The text without anything but letters and digits: behind `5a:71`, `"a", "b"` and `Z-q-7` are words."""
        return self._replaced(_SEPARATOR, lambda _: "")

    def _source_of(self, position: int) -> tuple[int, int]:
        """Start and end of one letter in the source."""
        piece = self.pieces[bisect_right(self.pieces, position, key=lambda each: each.start) - 1]
        if piece.is_decoded:
            return piece.source_start, piece.source_start + piece.source_length
        start = piece.source_start + position - piece.start
        return start, start + 1

    def _replaced(self, pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str]) -> View:
        parts: list[str] = []
        pieces: list[_Piece] = []
        length = position = 0
        for match in pattern.finditer(self.text):
            new, (start, end) = replace(match), match.span()
            if new == match[0]:
                continue
            pieces.append(_Piece(length, position, start - position, is_decoded=False))
            length += start - position
            # a piece without letters would hide the one that begins at the same place
            if new:
                pieces.append(_Piece(length, start, end - start, is_decoded=True))
            length += len(new)
            parts += (self.text[position:start], new)
            position = end
        if not position:
            return self
        pieces.append(_Piece(length, position, len(self.text) - position, is_decoded=False))
        return View("".join([*parts, self.text[position:]]), self, tuple(pieces))


def views(text: str) -> Iterator[View]:
    """The text, and the text decoded once and more often, as long as that changes it."""
    view = View(text)
    yield view
    for _ in range(_MAX_ROUNDS):
        decoded = view.decoded()
        if decoded is view:
            return
        view = decoded
        yield view


def _decode(match: re.Match[str]) -> str:
    kind = match.lastgroup or ""
    value = match[kind]
    match kind:
        case "unicode" if len(value) > 4:  # two surrogates are one letter (RFC 8259, section 7)
            high, low = int(value[:4], 16), int(value[-4:], 16)
            return chr(0x10000 + ((high & 0x3FF) << 10 | low & 0x3FF)) if 0xD800 <= high < 0xDC00 else match[0]
        case "unicode" | "braced" | "long" | "hex" | "html":
            return _letter(int(value, 16), match[0])
        case "decimal":
            return _letter(int(value), match[0])
        case "percent":
            return unquote(value)
        case "letter":
            return _LETTERS[value]
        case "entity":
            return _ENTITIES[value]
        case "slash":
            return "\\"
    return value


def _letter(code: int, otherwise: str) -> str:
    return chr(code) if code <= 0x10FFFF else otherwise
