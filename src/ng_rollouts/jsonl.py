"""JSON as this program reads and writes it: strict, fast, and without loss.

orjson does the work. What it cannot hold (integers beyond 64 bits, lone surrogates, both of which models do
write) goes through the standard library, so that a row leaves as it came.
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
"""2**63 has 19 digits: a shorter run of digits fits."""
_STRIDE, _STRUCK = 6, b"000"
"""So long a run is struck at least three times in a row by looking at every sixth byte, which is five times faster."""
_LONG_INTEGER = re.compile(rb"(?<![0-9.])[0-9]{19,}(?![0-9.])")


def loads(text: bytes) -> Any:
    """Parse one JSON document.

    Raises:
        ValueError: not JSON in UTF-8; NaN and Infinity are not JSON.
    """
    if _has_long_integer(text):
        return _loads_slowly(text)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "surrogate" not in str(error):
            raise
        return _loads_slowly(text)


def is_torn(line: bytes) -> bool:
    """Whether a last line without its newline was cut off in the writing."""
    try:
        loads(line)
    except ValueError:
        return True
    return False


def dumps(value: Any) -> bytes:
    """One line of JSON in UTF-8, without its newline."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """A short digest of a JSON value, to compare large values by."""
    return hashlib.blake2b(dumps(value), digest_size=8).hexdigest()


def _has_long_integer(text: bytes) -> bool:
    return (
        _STRUCK in text[::_STRIDE].translate(_DIGITS_TO_ZERO)
        and _BEYOND_64_BITS in text.translate(_DIGITS_TO_ZERO)
        and _LONG_INTEGER.search(text) is not None
    )


def _loads_slowly(text: bytes) -> Any:
    return json.loads(text.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
