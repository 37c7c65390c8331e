"""Output of the command: control characters of other people's text do not reach the terminal."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.console import counted, json_lines, log, log_lines, print_json, print_result, shown
from ng_rollouts.redaction import remember_secret

HARMFUL = ("Cc", "Cf", "Cs", "Zl", "Zp")


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 rollouts remain"), (1, "1 rollout remains"), (2, "2 rollouts remain")]
)
def test_noun_and_verb_agree_with_their_number(number: int, text: str) -> None:
    """One has the singular, all others the plural."""
    assert counted(number, "rollout", "remains", "remain") == text
    assert counted(number, "rollout") == " ".join(text.split()[:2])


def test_controls_and_format_characters_are_shown_as_escape_sequences() -> None:
    """A character is shown as it is, except those of Unicode's categories that control a terminal or are invisible."""
    for letter in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(letter) == "Cn":  # may be assigned in a later version of Unicode
            continue
        is_shown = letter == "\t" or unicodedata.category(letter) not in HARMFUL
        assert (shown(letter) == letter) == is_shown, hex(ord(letter))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m", "\\x9b31m"),
        ("a\nb\r", "a\\nb\\r"),
        ("\u202eabc", "\\u202eabc"),
        ("\U000e0041", "\\U000e0041"),
        ("a\tb", "a\tb"),
    ],
)
def test_escape_sequences_are_those_of_python(text: str, expected: str) -> None:
    """A control character is shown as in Python, and a tab stays."""
    assert shown(text) == expected


def test_messages_and_results_are_lines_without_controls(capsys: pytest.CaptureFixture[str]) -> None:
    """Every function that prints masks secrets and escapes controls; only its own line breaks are line breaks."""
    remember_secret("Vq7wLx2mZt9cRb4nKd")
    text = "\x1b]0;x\x07 Vq7wLx2mZt9cRb4nKd\nerror: forged"
    log(text)
    print_result(text)
    print_json({text: [text]}, title=text)
    printed = "".join(capsys.readouterr())
    assert "Vq7wLx2mZt9cRb4nKd" not in printed
    assert "\x1b" not in printed
    assert not any(line.startswith("error: forged") for line in printed.splitlines())
    log_lines("first\x1b\nsecond")
    assert capsys.readouterr().err == "first\\x1b\nsecond\n"


@given(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False)), st.booleans())
def test_printed_json_is_json(value: dict[str, str | float], in_ascii: bool) -> None:  # noqa: FBT001 - drawn
    """Escaping keeps JSON valid and equal, and no line of it has a control character."""
    lines = json_lines(value, in_ascii=in_ascii)
    assert json.loads("\n".join(lines)) == value
    assert all(shown(line) == line for line in lines)
