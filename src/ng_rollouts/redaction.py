"""Mask credentials in text, so that files and messages do not contain them.

Replies of servers and command lines may contain credentials: keys, tokens, passwords, and signed URLs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit, urlunsplit

MASK = "***"

_NAMES = r"(?:api[\s_-]?key|apikey|access[\s_-]?key|secret|token|password|passwd|authorization|credential)s?"
_PATTERNS = (
    # the texts are long and not trusted: bounded quantifiers keep a search from taking quadratic time
    # the user part of a URL
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]{0,20}://)[^/\s\"']{0,500}@", re.IGNORECASE), rf"\g<keep>{MASK}@"),
    # the query of a URL, which may be signed
    (re.compile(r"(?P<keep>://[^\s?\"']{1,500}\?)[^\s\"',\]}]{1,2000}"), rf"\g<keep>{MASK}"),
    # HTTP authorization (RFC 6750, RFC 7617)
    (re.compile(r"(?P<keep>\b(?:bearer|basic)\s{1,4})[\w.~+/=-]{6,2000}", re.IGNORECASE), rf"\g<keep>{MASK}"),
    # `api_key=VALUE` and similar; not interpolations such as `${oc.env:KEY}`, and not numbers such as `max_tokens: 100`
    (
        re.compile(
            rf"(?P<keep>{_NAMES}(?:\s(?:is|provided))?[\"']?\s{{0,4}}[:=]\s{{0,4}}[\"']?)"
            r"(?!\$\{|\d+\b)[^\s\"'&,;}]{6,2000}",
            re.IGNORECASE,
        ),
        rf"\g<keep>{MASK}",
    ),
    # keys that are recognised by their prefix: OpenAI, Hugging Face, NVIDIA, GitHub, Slack, GitLab, Groq, AWS; JWTs
    (re.compile(r"\b(?:sk|pk|rk|hf|nvapi|ghp|gho|xox[abp]|glpat|gsk)[-_][\w-]{6,}"), MASK),
    (re.compile(r"\bAKIA[0-9A-Z]{12,}\b"), MASK),
    (re.compile(r"\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*"), MASK),
)
_KNOWN_SECRETS: set[str] = set()
"""Secrets of this process, from its parameters. They are masked even if they do not look like credentials."""

_MIN_SECRET_CHARACTERS = 4
_NOT_SECRET = re.compile(r"\$\{|[\d._]+(?:e\d+)?$|null$|true$|false$")
"""Values that are shown although their parameter's name is that of a secret."""

_NAMED_SECRET = re.compile(rf"[+]*[\w.]*{_NAMES}=", re.IGNORECASE)
"""A Hydra override whose parameter is named like a secret, such as `+policy_api_key=`."""


def redact(text: str) -> str:
    """The text with known secrets, and everything that looks like a credential, masked."""
    # patterns first: masking a known secret could remove a word by which a pattern recognises a credential
    for pattern, mask in _PATTERNS:
        text = pattern.sub(mask, text)
    return mask_known(text)


def mask_known(text: str) -> str:
    """The text with known secrets masked, but not everything that looks like a credential."""
    for secret in _KNOWN_SECRETS:
        # as a whole word, because a short password may be a part of other words
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    return text


def remember_password_of(url: str) -> None:
    """Mask the password of a URL in all later texts, also in its percent-decoded form."""
    user_part = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    password = user_part.partition(":")[2]
    remember_secret(password)
    remember_secret(unquote(password))


def remember_secret(secret: str) -> None:
    """Mask a secret in all later texts. Secrets of less than four characters are ignored: they are common words."""
    if len(secret) >= _MIN_SECRET_CHARACTERS:
        _KNOWN_SECRETS.add(secret)


def display_command(arguments: Iterable[str]) -> str:
    """A command line with its secrets masked, quoted for a shell. Replace masked values before you run it."""
    return " ".join(shlex.quote(_masked(argument)) for argument in arguments)


def _masked(argument: str) -> str:
    name = _NAMED_SECRET.match(argument)
    if name and not _NOT_SECRET.match(argument, name.end()):
        return name[0] + MASK
    return redact(argument)


def without_credentials(url: str) -> str:
    """A URL without user, password, query and fragment, for messages."""
    try:
        parts = urlsplit(url)
    except ValueError:  # it is not a URL, so credentials are recognised by their form
        return redact(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
