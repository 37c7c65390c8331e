"""The secrets of this process, and where a text contains them: as they are, encoded, escaped, or in part."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ng_rollouts.unescape import View

_MIN_CHARACTERS = 4
"""Shorter secrets are ignored: they are parts of most texts."""

_LONG = 8
"""Characters from which a secret is masked within words and in any case. A shorter one may be an ordinary word."""

_PART = 12
"""Characters of a part of a secret that is masked: servers quote the beginning of a key."""

_MIN_VARIETY = 4
"""Different characters that a part must have, so that one of `xxxxxxxxxxxxxxxx` is not a line of a table."""


_ABRIDGED = re.compile(r"(?P<first>[\w-]{3,64}+)(?:\.{2,64}+|…|\*{2,64}+|•{2,64}+)(?P<last>[\w-]{2,64}+)")


class KnownSecrets:
    """Secrets, and an index that finds all of them in one pass over a text."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._parts: set[str] = set()
        self._wholes: set[str] = set()
        self._words: set[str] = set()
        self._longs: set[str] = set()
        self._word: re.Pattern[str] | None = None

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._secrets)

    def clear(self) -> None:
        """Forget all secrets."""
        self.__init__()  # type: ignore[misc]

    def add(self, secret: str) -> None:
        """Add a secret, unless it is shorter than four characters, or has neither a letter nor a digit."""
        if secret in self._secrets:
            return
        from ng_rollouts.unescape import views  # noqa: PLC0415 - a run without secrets does not need it

        for form in dict.fromkeys(view.joined().text.strip() for view in views(secret)):
            if len(form) >= _MIN_CHARACTERS and any(map(str.isalnum, form)):
                self._secrets.add(secret)
                self._add_long(form) if len(form) >= _LONG else self._add_word(form)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """The parts of a text that are secrets, in no order; they may overlap."""
        if not self._secrets or len(text) < _MIN_CHARACTERS:
            return
        from ng_rollouts.unescape import views  # noqa: PLC0415

        for view in views(text):
            yield from self._words_in(view)
            yield from self._long_in(view.joined())
            yield from self._long_in(view.dense())
            yield from self._abridged_in(view)

    def _add_long(self, secret: str) -> None:
        data = secret.encode("utf-8", "surrogatepass")
        self._longs.add(secret.lower())
        dense = re.sub(r"[\W_]", "", secret)
        forms = (secret, dense if len(dense) >= _PART else secret, data.hex(), *_in_base64(data))
        for folded in map(_folded, forms):
            self._wholes.add(folded)
            windows = (folded[at : at + _PART] for at in range(len(folded) - _PART + 1))
            self._parts.update(part for part in windows if len(set(part)) >= _MIN_VARIETY)

    def _add_word(self, secret: str) -> None:
        data = secret.encode("utf-8", "surrogatepass")
        standard, urlsafe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
        forms = (secret, data.hex(), data.hex().upper(), standard.rstrip("="), urlsafe.rstrip("="))
        self._words.update(form for form in forms if len(form) >= _MIN_CHARACTERS)
        words = "|".join(map(re.escape, sorted(self._words, key=len, reverse=True)))
        self._word = re.compile(rf"(?<!\w)(?:{words})(?!\w)")

    def _abridged_in(self, view: View) -> Iterator[tuple[int, int]]:
        """Secrets of which a server shows the beginning and the end: `sk-abc...xyz`."""
        for match in _ABRIDGED.finditer(view.text):
            first, last = match["first"].lower(), match["last"].lower()
            if any(secret.startswith(first) and secret.endswith(last) for secret in self._longs):
                yield view.span(*match.span())

    def _words_in(self, view: View) -> Iterator[tuple[int, int]]:
        if self._word:
            yield from (view.span(*match.span()) for match in self._word.finditer(view.text))

    def _long_in(self, view: View) -> Iterator[tuple[int, int]]:
        folded = _folded(view.text)
        parts = self._parts
        at_parts = (at for at in range(len(folded) - _PART + 1) if folded[at : at + _PART] in parts) if parts else ()
        yield from (view.span(at, at + _PART) for at in at_parts)
        for whole in self._wholes:
            at = folded.find(whole)
            while at >= 0:
                yield view.span(at, at + len(whole))
                at = folded.find(whole, at + len(whole))


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order; those that overlap or touch are one."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def _in_base64(data: bytes) -> Iterator[str]:
    """The characters that encode data wherever it is within longer data (RFC 4648, section 4).

    A character encodes six bits, so there are three ways to divide the data. The characters that also encode bits of
    the neighbours are left out.
    """
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode()
        yield encoded[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]


def _folded(text: str) -> str:
    """Text for a search in any case, and in either alphabet of base64, with as many characters."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters have a lower case of two
        lowered = "".join(letter if len(letter.lower()) > 1 else letter.lower() for letter in text)
    return lowered.replace("-", "+").replace("_", "/")
