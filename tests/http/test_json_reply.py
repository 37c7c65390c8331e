"""Parsing replies: encodings, numbers that are not finite, deep nesting and very many values."""

from __future__ import annotations

import gc
import time

import pytest

from ng_rollouts.errors import AttemptFailed
from ng_rollouts.http.client import Reply
from ng_rollouts.http.json_reply import json_object


def reply(body: bytes, content_type: str | None = None, status: int = 200) -> Reply:
    """A reply with this body."""
    return Reply(status, lambda name: content_type if name == "content-type" else None, lambda name: [], body)


def failure_of(body: bytes, content_type: str | None = None, status: int = 200) -> AttemptFailed:
    """The failure that a reply reports."""
    with pytest.raises(AttemptFailed) as failure:
        json_object(reply(body, content_type, status))
    return failure.value


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_reply_in_another_encoding_of_unicode_is_read(encoding: str) -> None:
    """A byte-order mark is skipped, and UTF-16 and UTF-32 are recognised, whatever the charset in the header is."""
    assert json_object(reply('{"a": "é"}'.encode(encoding), "application/json; charset=utf-8")) == {"a": "é"}


@pytest.mark.parametrize("charset", ["iso-8859-1", "windows-1252", '"ISO-8859-15"', "cp1252"])
def test_reply_is_read_by_its_charset(charset: str) -> None:
    """A body that is not UTF-8 is decoded by the charset of its content type."""
    assert json_object(reply('{"a": "é"}'.encode("latin-1"), f"application/json; charset={charset}")) == {"a": "é"}


@pytest.mark.parametrize("content_type", [None, "text/html; charset=nope", "x; charset=punycode", "x; charset=\x00"])
def test_reply_in_an_unknown_encoding_is_not_json(content_type: str | None) -> None:
    """Bytes that cannot be decoded are `not_json`, and the message says so."""
    failure = failure_of('{"a": "é"}'.encode("latin-1"), content_type)
    assert failure.failure_class == "not_json"
    assert "can't decode byte 0xe9" in failure.message


@pytest.mark.parametrize(
    ("body", "failure_class"),
    [
        (b'{"reward": NaN}', "not_finite"),
        (b'{"reward": -Infinity}', "not_finite"),
        (b'{"reward": 1e999}', "not_finite"),
        ('{"reward": NaN}'.encode("utf-16"), "not_finite"),
        (b'{"reward": None}', "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"\xef\xbb\xbf", "not_json"),
        (b"\x00" * 100, "not_json"),
        (b"[" * 100_000, "odd_reply"),
        (b'{"a":' * 100_000 + b"1" * 30 + b"}" * 100_000, "odd_reply"),
    ],
)
def test_reply_that_cannot_be_parsed_has_a_failure_class(body: bytes, failure_class: str) -> None:
    """Only numbers are `not_finite`; other text is `not_json`, and deep nesting `odd_reply`."""
    assert failure_of(body).failure_class == failure_class


def test_error_message_in_utf16_is_readable() -> None:
    """The message of a failure is decoded by its byte-order mark, too."""
    assert failure_of("größe".encode("utf-16"), status=400).message == "größe"


def test_reply_of_very_many_values_is_too_large() -> None:
    """A reply of 52 million empty lists is refused before it is parsed: it would take gigabytes."""
    began = time.monotonic()
    failure = failure_of(b'{"a":[' + b"[]," * 26_000_000 + b"1]}")
    assert (failure.failure_class, failure.retryable) == ("reply_too_large", False)
    assert time.monotonic() - began < 2


def test_garbage_collector_is_enabled_after_a_large_reply() -> None:
    """It pauses while a large reply is parsed, also if that fails."""
    assert gc.isenabled()
    json_object(reply(b'{"a": "' + b"x" * 2_000_000 + b'"}'))
    assert gc.isenabled()
    failure_of(b"x" * 2_000_000)
    assert gc.isenabled()
