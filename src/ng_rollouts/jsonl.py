"""Read and write JSON: strict, fast, and without loss.

orjson does the work. It cannot represent integers beyond 64 bits and lone surrogates, and models write both. The
standard library handles texts with such values, so that they are written as they were read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any, NoReturn

import orjson

_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_BEYOND_64_BITS = b"0" * 19
"""2**63 has 19 digits, so an integer with fewer digits fits into 64 bits."""
_STRIDE, _SAMPLED_DIGITS = 6, b"000"
"""Every sixth byte of a run of 19 digits includes at least three of them. The sample is searched five times faster."""
_DIGITS_AND_STARTS = bytes.maketrans(b"123456789:,[ \t\r\n", b"000000000-------")
"""Also marks the bytes that may precede an integer. Long runs of digits often follow a point, a quote or a letter."""
_NOT_FINITE = re.compile(r"NaN|Infinity")


class NotFiniteError(ValueError):
    """A number is NaN or infinite, which JSON does not allow (RFC 8259, 6)."""


class TooDeepError(ValueError):
    """Arrays and objects are nested too deeply to be parsed."""


def loads(text: bytes, *, has_long: bool | None = None) -> Any:
    """Parse one JSON document.

    Args:
        has_long: `has_long_integer` of the text, if that is known.

    Raises:
        NotFiniteError, TooDeepError: see there.
        ValueError: the text is not JSON in UTF-8.
    """
    # before orjson, because orjson parses long integers as floats without an error
    if has_long_integer(text) if has_long is None else has_long:
        return _loads_by_stdlib(text)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "surrogate" in str(error):
            return _loads_by_stdlib(text)
        if "depth limit" in error.msg:
            raise TooDeepError(str(error)) from error
        # the position is that of the first letter of the word
        if "infinity" in error.msg or _NOT_FINITE.match(error.doc, error.pos):
            raise NotFiniteError(str(error)) from error
        raise


def has_long_integer(text: bytes) -> bool:
    """Whether a text may have an integer beyond 64 bits, also within a string. Takes about as long as to parse it."""
    # from the cheapest test to the most exact one: almost all texts end at the first
    return (
        _SAMPLED_DIGITS in text[::_STRIDE].translate(_DIGITS)
        and _BEYOND_64_BITS in text.translate(_DIGITS)
        and b"-" + _BEYOND_64_BITS in b"-" + text.translate(_DIGITS_AND_STARTS)
    )


def is_torn(line: bytes) -> bool:
    """Whether a last line without a newline is incomplete, because its write was interrupted."""
    try:
        loads(line)
    except ValueError:
        return True
    return False


def dumps(value: Any) -> bytes:
    """One line of JSON in UTF-8, without a newline."""
    try:
        return orjson.dumps(value)
    except TypeError:  # a long integer or a lone surrogate; the standard library escapes the latter
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def dumps_indented(value: Any) -> bytes:
    """JSON on several lines, for people, in UTF-8 with a newline at the end."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # also file names with bytes that are not UTF-8, which JSON can only hold as escapes
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        return text.encode("utf-8", errors="backslashreplace")


def digest_of(value: Any) -> str:
    """A digest of a JSON value, 16 hexadecimal digits, for comparing large values."""
    return hashlib.blake2b(dumps(value), digest_size=8).hexdigest()


def _loads_by_stdlib(text: bytes) -> Any:
    try:
        # by default, the standard library accepts NaN and Infinity, and parses 1e999 as infinity
        return json.loads(text.decode("utf-8"), parse_constant=_reject, parse_float=_finite)
    except RecursionError as error:
        raise TooDeepError("arrays and objects are nested too deeply") from error


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _reject(number)


def _reject(number: str) -> NoReturn:
    raise NotFiniteError(f"{number} is not a valid JSON number")
