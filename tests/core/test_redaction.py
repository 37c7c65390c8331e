"""Credentials are masked in messages, files and displayed commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.redaction import (
    display_command,
    mask_settings,
    mask_values,
    redact,
    remember_secret,
    remember_url,
    without_credentials,
)
from tests.conftest import FILES, Ran
from tests.servers import Served

SECRET = "sk-verysecretkey1234567890"


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {SECRET}",
        f'{{"error": "invalid api_key={SECRET}"}}',
        f"Authorization: Bearer {SECRET}",
        f"http://user:{SECRET}@host/path refused",
        f'{{"token": "{SECRET}"}}',
        "password=verysecretkey1234567890",
        "key AKIAVERYSECRETKEY1234 is unknown",
        "Incorrect API key provided: verysecretkey1234567890",
        "http://me:pa@verysecretkey@host/run",
        "http://host/run?sig=verysecretkey",
    ],
)
def test_credentials_in_text_are_masked(text: str) -> None:
    """Text that looks like a credential is replaced by the mask, in the formats that servers use."""
    masked = redact(text)
    assert "verysecretkey" not in masked.lower()
    assert "***" in masked


def test_known_password_is_masked_as_a_whole_word() -> None:
    """The password of a URL is masked as a whole word, so the word `password` still marks another credential."""
    remember_url("http://me:pass@host")
    assert redact("no such user: me/pass") == "no such user: me/***"
    assert redact("password=verysecretkey1234567890") == "password=***"


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens must be <= 4096",
        "no such model: token-counter",
        "the keyboard key: enter",
        "r.jsonl, line 3",
        '{"max_tokens": 1000000}',
    ],
)
def test_text_without_credentials_is_unchanged(text: str) -> None:
    """Text that only resembles a credential, such as a token count, stays readable."""
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "A" * 200_000,
        "a:" * 100_000,
        "api key " * 25_000,
        "http://" * 30_000,
        "bearer " * 30_000,
        "sk-" * 60_000,
    ],
    ids=["letters", "colons", "api key", "http", "bearer", "sk"],
)
def test_masking_of_long_text_ends_in_time(text: str) -> None:
    """Masking takes time in proportion to the length of a text: no pattern backtracks over a long one."""
    assert len(redact(text)) <= len(text)


def test_displayed_url_has_no_credentials() -> None:
    """A URL in a message has no user, password and query."""
    assert without_credentials("http://me:secret@host:1/run?key=secret") == "http://host:1/run"


def test_displayed_url_has_no_part_of_a_password_with_separators() -> None:
    """A password that was typed with `/`, `@`, `?` or `#` ends at the last `@` in front of the host."""
    for password in ("pa/ss", "p@ss", "pa?ss", "pa#ss", "p@/ss@"):
        assert without_credentials(f"http://me:{password}@host.org:1/run") == "http://host.org:1/run"
    assert without_credentials("http://host:8000/models/a@v1.2") == "http://host:8000/models/a@v1.2"
    assert without_credentials("http://me:pw@host/models/a@main") == "http://host/models/a@main"


def test_secrets_in_json_values_are_masked() -> None:
    """Texts and keys of JSON are masked; numbers stay numbers, also if their digits are a secret."""
    remember_secret("12345678")
    assert mask_values({"12345678": ["a 12345678", 0.12345678, None]}) == {"***": ["a ***", 0.12345678, None]}


def test_values_with_the_names_of_secrets_are_masked_whole() -> None:
    """Settings are masked by name; interpolations and counts of tokens are shown."""
    settings = {"headers": {"x-my-key": "abc"}, "api_key": ["a", "${oc.env:K}"], "max_tokens": 5, "stop_token": "<s>"}
    masked = {"headers": {"x-my-key": "***"}, "api_key": ["***", "${oc.env:K}"], "max_tokens": 5, "stop_token": "<s>"}
    assert mask_settings(settings) == masked


@given(st.text(max_size=200))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    """A masked text stays as it is when it passes another place that masks."""
    remember_secret("Vq7wLx2mZt9cRb4nKd")
    once = redact(f"{text} Vq7wLx2mZt9cRb4nKd {text}")
    assert redact(once) == once


def test_header_made_of_a_short_password_is_masked() -> None:
    """The base64 of user and password is masked, also if the password alone is a common word."""
    remember_url("http://me:pass@host")
    assert redact("got Basic-bWU6cGFzcw== from you") == "got Basic-*** from you"


def test_displayed_command_masks_secrets() -> None:
    """A displayed command masks API keys and passwords in URLs, but not an interpolation that names a variable."""
    displayed = display_command(
        ["x", f"+policy_api_key={SECRET}", f"+agent_url=http://me:{SECRET}@h:1", "+k_token=${oc.env:T}"]
    )
    assert SECRET not in displayed
    assert "${oc.env:T}" in displayed


@pytest.mark.parametrize("is_reachable", [True, False], ids=["reachable", "unreachable"])
def test_password_of_a_url_is_in_no_message_and_no_file(
    command: Callable[..., Ran],
    tasks: Callable[..., Path],
    serve: Callable[..., Served],
    tmp_path: Path,
    *,
    is_reachable: bool,
) -> None:
    """The password in a server's URL appears neither in the output of a command nor in any of its files."""
    tasks(3)
    url = serve(faults={"400": 1.0}).url if is_reachable else "http://127.0.0.1:9"
    url = url.replace("http://", f"http://me:{SECRET}@")
    ran = command(*FILES, f"+agent_url={url}", "+wait_for_agent_s=0", "+num_repeats=20")
    assert ran.code == 3, ran.stderr
    assert SECRET not in ran.stdout + ran.stderr
    assert all(SECRET not in path.read_text() for path in tmp_path.iterdir())


def test_secret_in_a_failure_class_is_masked(
    command: Callable[..., Ran], tasks: Callable[..., Path], serve: Callable[..., Served]
) -> None:
    """A failure class that an agent reports is masked like a message."""
    tasks(3)
    ran = command(*FILES, f"+agent_url={serve(faults={'secret_class': 1.0}).url}")
    assert ran.code == 1
    assert "AuthError api_key=***" in ran.stderr
    assert "abcdef123456" not in ran.stderr
