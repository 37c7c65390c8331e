"""JSON goes in and out without loss."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.jsonl import dumps, loads

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters() | st.sampled_from("0123456789.\ud800"))
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(value=VALUES, padding=st.text("0123456789 .ex", max_size=60))
def test_what_is_written_is_what_was_read(value: Any, padding: str) -> None:
    """Integers of any size and lone surrogates included, wherever in the text they are."""
    text = json.dumps([padding, value], separators=(",", ":")).encode()
    assert loads(text) == [padding, value]
    assert json.loads(dumps(loads(text))) == [padding, value]


@pytest.mark.parametrize("digits", range(17, 25))
@pytest.mark.parametrize("before", range(7))
def test_long_integers_are_kept_at_every_offset(digits: int, before: int) -> None:
    """To the last digit."""
    number = int("9" * digits)
    assert loads(b'{"' + b"x" * before + b'":%d}' % number) == {"x" * before: number}
    assert loads(b"[%s-%d]" % (b" " * before, number)) == [-number]
