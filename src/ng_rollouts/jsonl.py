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

_DIGITS_TO_ZERO = bytes(ord("0") if chr(code).isdigit() and code < 128 else code for code in range(256))
_BEYOND_64_BITS = b"0" * 19
"""2**63 has 19 digits, so an integer with fewer digits fits into 64 bits."""
_STRIDE, _SAMPLED_DIGITS = 6, b"000"
"""Every sixth byte of a run of 19 digits includes at least three of them. The sample is searched five times faster."""
_LONG_INTEGER = re.compile(rb"(?<![0-9.])[0-9]{19,}(?![0-9.])")


def loads(text: bytes) -> Any:
    """Parse one JSON document.

    Raises:
        ValueError: the text is not JSON in UTF-8, or is nested too deeply. NaN and Infinity are not JSON (RFC 8259, 6).
    """
    # before orjson, because orjson parses long integers as floats without an error
    if _has_long_integer(text):
        return _loads_by_stdlib(text)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "surrogate" not in str(error):
            raise
        return _loads_by_stdlib(text)


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


def digest_of(value: Any) -> str:
    """A digest of a JSON value, 16 hexadecimal digits, for comparing large values."""
    return hashlib.blake2b(dumps(value), digest_size=8).hexdigest()


def _has_long_integer(text: bytes) -> bool:
    """Whether a text may have an integer beyond 64 bits, also within a string."""
    # from the cheapest test to the most exact one: almost all texts end at the first
    return (
        _SAMPLED_DIGITS in text[::_STRIDE].translate(_DIGITS_TO_ZERO)
        and _BEYOND_64_BITS in text.translate(_DIGITS_TO_ZERO)
        and _LONG_INTEGER.search(text) is not None
    )


def _loads_by_stdlib(text: bytes) -> Any:
    # by default, the standard library accepts NaN and Infinity, and parses 1e999 as infinity
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_reject, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _reject(number)


def _reject(number: str) -> NoReturn:
    raise ValueError(f"{number} is not a valid JSON number")
