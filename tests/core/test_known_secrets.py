"""Known secrets are found in every form in which a server may quote them, and nothing else is."""

from __future__ import annotations

import base64
import json
import string
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ng_rollouts.known_secrets import KnownSecrets, merged

KEY = "sk-Abc_d/ef+GHI123456789xyz"
ANY_KEY = st.text(string.ascii_letters + string.digits + "-_/+=.~%@:", min_size=16, max_size=60).filter(
    lambda key: len(set(key)) > 8
)
AROUND = st.sampled_from(["", "x", "9", "_", "\\n", "\\u0027", "\\u003c", '"', "%22", "&quot;", "é", " ", "\n", "\\\\"])


def masked(text: str, *secrets: str) -> str:
    """The text with secrets masked by asterisks."""
    known = KnownSecrets()
    for secret in secrets:
        known.add(secret)
    for start, end in reversed(merged(known.spans(text))):
        text = f"{text[:start]}***{text[end:]}"
    return text


def in_json_escapes(text: str) -> str:
    """A text in which every character is an escape sequence of JSON."""
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda key: key,
    "upper case": str.upper,
    "lower case": str.lower,
    "percent-encoded": lambda key: quote(key, safe=""),
    "all percent-encoded": lambda key: "".join(f"%{byte:02X}" for byte in key.encode()),
    "percent-encoded twice": lambda key: quote(quote(key, safe=""), safe=""),
    "form-encoded": quote_plus,
    "JSON escapes": in_json_escapes,
    "JSON in JSON": lambda key: json.dumps(in_json_escapes(key))[1:-1],
    "Python escapes": lambda key: "".join(f"\\x{byte:02x}" for byte in key.encode()),
    "HTML": lambda key: "".join(f"&#{ord(letter)};" for letter in key),
    "hex": lambda key: key.encode().hex(),
    "upper hex": lambda key: key.encode().hex().upper(),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 without padding": lambda key: base64.b64encode(key.encode()).decode().rstrip("="),
    "urlsafe base64": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "base64 behind a user": lambda key: base64.b64encode(b"me:" + key.encode()).decode(),
    "base64 within text": lambda key: base64.b64encode(b"user:" + key.encode() + b" and more").decode(),
    "base64 over lines": lambda key: base64.encodebytes(b"a" * 50 + key.encode() + b"a" * 50).decode(),
    "two lines": lambda key: f"{key[:7]}\n    {key[7:]}",
    "two escaped lines": lambda key: f"{key[:9]}\\n{key[9:]}",
    "CRLF": lambda key: f"{key[:9]}\r\n{key[9:]}",
}


@pytest.mark.parametrize("form", FORMS)
@given(key=ANY_KEY, before=AROUND, after=AROUND)
@example(key=KEY, before="\\n", after="")
def test_key_is_masked_in_every_form(form: str, key: str, before: str, after: str) -> None:
    """No twelve characters of a key are left, in whatever form, and wherever in other text it stands."""
    echoed = FORMS[form](key)
    text = f"wrong key {before}{echoed}{after} given"
    left = masked(text, key)
    assert "***" in left
    # of the base64 of longer text, only the part that encodes the key
    encoded = len(key) * 4 // 3 - 3 if "base64" in form else len(echoed.strip('"'))
    # a letter behind a backslash may be read as an escape sequence
    assert len(left) <= len(text) - encoded + len("***") + 1


@given(key=ANY_KEY, start=st.integers(0, 48), length=st.integers(12, 60))
def test_long_part_of_a_key_is_masked(key: str, start: int, length: int) -> None:
    """A part of at least twelve characters is masked, as in `sk-abcdefghijk...`."""
    part = key[start : start + length]
    if len(part) >= 12 and len(set(part)) >= 8:
        assert part not in masked(f"key {part}... is wrong", key)


@given(st.text(max_size=300), ANY_KEY)
def test_text_without_the_secret_is_unchanged(text: str, key: str) -> None:
    """Text in which no form of the secret stands keeps every character."""
    assume(not any(key[at : at + 12].lower() in text.lower() for at in range(len(key) - 11)))
    assert masked(text, key) == text


@pytest.mark.parametrize(
    "text",
    ["the words passing and bypass", "mypass_word", "Pass the test", "tests/test_pass1.py", "compass"],
)
def test_short_secret_is_masked_as_a_word_only(text: str) -> None:
    """A secret of less than eight characters is not masked within words, nor in another case."""
    assert masked(text, "pass") == text


@pytest.mark.parametrize("text", ["a\\npass b", "(pass)", '"pass"', "me:pass@host", "%22pass%22", "pass\\u0027"])
def test_short_secret_is_masked_behind_escape_sequences(text: str) -> None:
    """An escape sequence is not a part of the word behind it."""
    assert "pass" not in masked(text, "pass")


def test_secrets_that_are_no_words_are_ignored() -> None:
    """Secrets of less than four characters, or without letters and digits, would mask parts of any text."""
    assert masked("a --- b ---------- c", "a", "abc"[:2], "----------", "        ") == "a --- b ---------- c"
    assert masked(f"| {'x' * 40} |{'0' * 40}", "x" * 20, "0" * 20 + "1") == f"| {'***' * 2} |{'0' * 40}".replace(
        "******", "***"
    )


def test_secrets_in_a_key_of_unicode_letters_are_found() -> None:
    """A password may have letters of any alphabet, which are escaped as several bytes."""
    password = "pässwörd-Δικα-12"
    for text in (quote(password), json.dumps(password), password.upper(), base64.b64encode(password.encode()).decode()):
        # the last character of base64 also encodes the padding
        assert masked(text, password).strip('"')[:3] == "***"
        assert len(masked(text, password)) < 8


@pytest.mark.parametrize(
    "unit", ["a b", "\\n\\u0027%20&amp;", "\\", "%", " ", "\n", "\\u", "&#", "sk-Abc_d", "é", "\u200b", "\t\\"]
)
def test_search_takes_linear_time(unit: str) -> None:
    """Fifty secrets are searched in 100 kB in a fraction of a second, whatever the text consists of."""
    known = KnownSecrets()
    for number in range(50):
        known.add(f"{KEY}{number * 7919:020d}")
        known.add(f"word{number}")
    began = time.process_time()
    list(known.spans(unit * (100_000 // len(unit))))
    assert time.process_time() - began < 1.5


@pytest.mark.parametrize(
    "form",
    [
        "Zq7wLm2x...Rk4pHs6d",
        "Zq7**************6d",
        "5a:71:37:77:4c:6d:32:78:56:62:39:74:52:6b:34:70:48:73:36:64",
        '["Z","q","7","w","L","m","2","x","V","b","9","t","R","k","4","p","H","s","6","d"]',
        "Zq7w Lm2x Vb9t Rk4p Hs6d",
        'Zq7wLm2xVb" + "9tRk4pHs6d',
        "Zq7wLm2x\u2063Vb9tRk4pHs6d",
    ],
)
def test_abridged_and_divided_keys_are_found(form: str) -> None:
    """A key is found by its beginning and end, and with separators between its letters or digits."""
    secrets = KnownSecrets()
    secrets.add("Zq7wLm2xVb9tRk4pHs6d")
    text = f"bad key {form} end"
    masked = [False] * len(text)
    for start, end in secrets.spans(text):
        masked[start:end] = [True] * (end - start)
    shown = "".join(letter for letter, is_masked in zip(text, masked, strict=True) if not is_masked)
    assert not any(map(str.isalnum, shown.removeprefix("bad key").removesuffix("end"))), shown
