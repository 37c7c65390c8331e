"""Secrets out of text: what servers say and what was typed may hold keys, files and messages must not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit, urlunsplit

MASK = "***"

_NAMES = r"(?:api[\s_-]?key|apikey|access[\s_-]?key|secret|token|password|passwd|authorization|credential)s?"
_PATTERNS = (
    # every quantifier is bounded: texts are long, and other people's
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]{0,20}://)[^/\s\"']{0,500}@", re.IGNORECASE), rf"\g<keep>{MASK}@"),
    (re.compile(r"(?P<keep>://[^\s?\"']{1,500}\?)[^\s\"',\]}]{1,2000}"), rf"\g<keep>{MASK}"),
    (re.compile(r"(?P<keep>\b(?:bearer|basic)\s{1,4})[\w.~+/=-]{6,2000}", re.IGNORECASE), rf"\g<keep>{MASK}"),
    (
        re.compile(
            rf"(?P<keep>{_NAMES}(?:\s(?:is|provided))?[\"']?\s{{0,4}}[:=]\s{{0,4}}[\"']?)"
            r"(?!\$\{|\d+\b)[^\s\"'&,;}]{6,2000}",
            re.IGNORECASE,
        ),
        rf"\g<keep>{MASK}",
    ),
    (re.compile(r"\b(?:sk|pk|rk|hf|nvapi|ghp|gho|xox[abp]|glpat|gsk)[-_][\w-]{6,}"), MASK),
    (re.compile(r"\bAKIA[0-9A-Z]{12,}\b"), MASK),
    (re.compile(r"\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*"), MASK),
)
_KNOWN: set[str] = set()
_SHORTEST_SECRET = 4
_NO_SECRET = re.compile(r"\$\{|[\d._]+(?:e\d+)?$|null$|true$|false$")
_NAMED_SECRET = re.compile(rf"[+]*[\w.]*{_NAMES}=", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with known passwords, and whatever looks like a credential, masked."""
    for pattern, mask in _PATTERNS:
        text = pattern.sub(mask, text)
    return mask_known(text)


def mask_known(text: str) -> str:
    """The text with known secrets masked, and nothing else."""
    for secret in _KNOWN:
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    return text


def remember_password_of(url: str) -> None:
    """Have the password of a URL masked wherever it turns up."""
    user_part = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    password = user_part.partition(":")[2]
    remember_secret(password)
    remember_secret(unquote(password))


def remember_secret(secret: str) -> None:
    """Have a secret masked wherever it turns up, unless it is too short to be told from other words."""
    if len(secret) >= _SHORTEST_SECRET:
        _KNOWN.add(secret)


def display_command(arguments: Iterable[str]) -> str:
    """A command line as it may be shown, ready for a shell; a masked value has to be typed again."""
    return " ".join(shlex.quote(_masked(argument)) for argument in arguments)


def _masked(argument: str) -> str:
    name = _NAMED_SECRET.match(argument)
    if name and not _NO_SECRET.match(argument, name.end()):
        return name[0] + MASK
    return redact(argument)


def without_credentials(url: str) -> str:
    """A URL as it may be shown: no user, no password, no query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
