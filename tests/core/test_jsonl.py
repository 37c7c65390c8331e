"""JSON documents are parsed and written without loss."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.jsonl import NotFiniteError, TooDeepError, dumps, loads

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters() | st.sampled_from("0123456789.\ud800"))
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(value=VALUES, padding=st.text("0123456789 .ex", max_size=60))
def test_json_round_trip_is_lossless(value: Any, padding: str) -> None:
    """A value survives a round trip, including integers of any size and lone surrogates, at any offset in the text."""
    text = json.dumps([padding, value], separators=(",", ":")).encode()
    assert loads(text) == [padding, value]
    assert json.loads(dumps(loads(text))) == [padding, value]


@pytest.mark.parametrize("digits", range(17, 25))
@pytest.mark.parametrize("offset", range(7))
def test_long_integers_keep_all_digits_at_every_offset(digits: int, offset: int) -> None:
    """An integer near or beyond 64 bits is parsed to its last digit, wherever the sampled search finds it."""
    number = int("9" * digits)
    assert loads(b'{"' + b"x" * offset + b'":%d}' % number) == {"x" * offset: number}
    assert loads(b"[%s-%d]" % (b" " * offset, number)) == [-number]


@given(
    value=st.recursive(st.integers(10**18, 10**30) | st.floats(0, 1), lambda inner: st.lists(inner, max_size=3)),
    indent=st.sampled_from([None, 0, 1, "\t"]),
    separators=st.sampled_from([(",", ":"), (", ", ": "), ("\r\n,\t", "\r:\n")]),
    sign=st.sampled_from(["", "-", " ", "\n-"]),
)
def test_long_integers_keep_all_digits_after_every_byte(
    value: Any, indent: Any, separators: tuple[str, str], sign: str
) -> None:
    """An integer beyond 64 bits is parsed to its last digit after any space, sign or punctuation, and as a document."""
    text = json.dumps({"value": value}, indent=indent, separators=separators)
    assert loads(text.encode()) == {"value": value}
    number = f"{sign}{10**18 + len(text)}{len(text)}"
    assert loads(number.encode()) == int(number)


@given(digits=st.text("0123456789", min_size=19, max_size=60), before=st.sampled_from(["", "x", "é", ".", '\\"', "/"]))
def test_digits_outside_integers_do_not_need_the_slow_parser(digits: str, before: str) -> None:
    """Long fractions, and strings that are or contain a word with many digits, are parsed by orjson."""
    text = f'{{"{digits}":[0.{digits},"{before}{digits}"]}}'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ng_rollouts.jsonl._loads_by_stdlib", lambda _: pytest.fail("parsed by the standard library"))
        assert loads(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "text", [b'{"n":123456789012345678901234567890}', b'{"n":-9223372036854775809}', b'{"s":"\\ud800"}', b'{"n":1.5}']
)
def test_compact_json_is_written_as_it_was_read(text: bytes) -> None:
    """Compact JSON with integers beyond 64 bits or lone surrogates is written with the bytes that were read."""
    assert dumps(loads(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        b"NaN",
        b'{"n":123456789012345678901,"x":NaN}',
        b'{"n":123456789012345678901,"x":1e999}',
        b"\xff",
        b'"\\ud800',
        b"",
    ],
)
def test_text_that_is_not_json_is_rejected(text: bytes) -> None:
    """Non-finite numbers, invalid UTF-8 and torn text are errors, also where a long integer needs the other parser."""
    with pytest.raises(ValueError):  # noqa: PT011 - the two parsers have different messages
        loads(text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("before", ["", "123456789012345678901, ", '"é", '])
def test_numbers_that_are_not_finite_have_their_own_error(number: str, before: str) -> None:
    """NaN and infinite numbers are told apart from other text that is not JSON, by both parsers."""
    with pytest.raises(NotFiniteError):
        loads(f"[{before}{number}]".encode())


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"1" * 30 + b"]" * 100_000])
def test_deep_nesting_has_its_own_error(text: bytes) -> None:
    """100,000 levels are an error of both parsers, and not a crash."""
    with pytest.raises(TooDeepError):
        loads(text)
