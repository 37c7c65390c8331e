"""Mask credentials in text, so that files and messages do not contain them.

Replies of servers and command lines may contain credentials: keys, tokens, passwords, and signed URLs. Text is masked
where it leaves the process: by `console`, in the failures file, and in JSON files (`storage.atomic.write_json`).
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from ng_rollouts.known_secrets import KnownSecrets, merged

MASK = "***"

_NAMES = (
    r"(?:api[\s_-]?key|apikey|access[\s_-]?key|subscription[\s_-]?key|secret|token|password|passwd|authorization"
    r"|credential|cookie)s?"
)
_PATTERNS = (
    # the texts are long and not trusted: bounded quantifiers keep a search from taking quadratic time
    # the user part of a URL
    re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://(?P<secret>[^/\s\"']{0,500})@", re.IGNORECASE),
    # the query of a URL, which may be signed
    re.compile(r"://[^\s?\"']{1,500}\?(?P<secret>[^\s\"',\]}]{1,2000})"),
    # HTTP authorization (RFC 6750, RFC 7617)
    re.compile(r"\b(?:bearer|basic)\s{1,4}(?P<secret>[\w.~+/=-]{6,2000})", re.IGNORECASE),
    # `api_key=VALUE` and similar; not interpolations such as `${oc.env:KEY}`, and not numbers such as `max_tokens: 100`
    re.compile(
        rf"{_NAMES}(?:\s(?:is|provided))?[\"']?\s{{0,4}}[:=]\s{{0,4}}[\"']?"
        r"(?!\$\{|\d+\b)(?P<secret>[^\s\"'&,;}]{6,2000})",
        re.IGNORECASE,
    ),
    # keys that are recognised by their prefix: OpenAI, Hugging Face, NVIDIA, GitHub, Slack, GitLab, Groq, AWS; JWTs
    re.compile(r"\b(?P<secret>(?:sk|pk|rk|hf|nvapi|ghp|gho|xox[abp]|glpat|gsk)[-_][\w-]{6,})"),
    re.compile(r"\b(?P<secret>AKIA[0-9A-Z]{12,})\b"),
    re.compile(r"\b(?P<secret>eyJ[\w-]{10,}\.[\w-]+\.[\w-]*)"),
)
_KNOWN = KnownSecrets()
"""Secrets of this process, from its parameters. They are masked even if they do not look like credentials."""

_NOT_SECRET = re.compile(r"\$\{|null$|true$|false$")
"""Values that are shown although their parameter's name is that of a secret."""

_SECRET_NAME = re.compile(
    r"(?:(?:api|access|secret|private|subscription|account|auth|master|service|functions?|signing|encryption|shared"
    r"|client|admin)[\s_-]?keys?|apikeys?|secrets?|token|(?:api|access|auth|bearer|refresh|session)[\s_-]?tokens"
    r"|passw(?:or)?ds?|passphrase|pwd|authorization|auth|credentials?|cookies?|signature|headers\.[\w-]*key)$",
    re.IGNORECASE,
)
"""The end of the name of a secret, such as `policy_api_key` or `X-Api-Key`."""

_TOKEN_OF_TEXT = re.compile(
    r"(?:eo[smt]|bos|pad|unk|sep|cls|mask|stop|end|start|image|think|special)_token$", re.IGNORECASE
)
"""Names of tokens that are parts of text."""

_USER_KEY = re.compile(r"[A-Za-z0-9_+/=-]{16,}")
"""The user in a URL, if it may be a credential: a token, or the id of an access key."""

_SECRET_QUERIES = frozenset({"key", "code", "sig", "sign", "x-amz-signature", "x-goog-signature"})
"""Fields of the query of a URL that hold a secret, in addition to those whose names say so."""

_HOST = re.compile(r"[\w.-]*(?::\d{0,5})?|\[[0-9a-fA-F:.]*\](?::\d{0,5})?")
_DISTINCT_HOST = re.compile(
    r"(?:localhost|(?:[\w-]+\.)+[a-z]{2,}|\d+(?:\.\d+){3}|\[[0-9a-f:.]+\]|[\w.-]+(?=:\d))(?::\d{1,5})?(?:[/?#]|$)",
    re.IGNORECASE,
)
"""What can be a host, and what is one rather than a version or a name."""


def redact(text: str) -> str:
    """The text with known secrets, and everything that looks like a credential, masked."""
    looks = (match.span("secret") for pattern in _PATTERNS for match in pattern.finditer(text))
    return _without(text, [*_KNOWN.spans(text), *looks])


def mask_known(text: str) -> str:
    """The text with known secrets masked, but not everything that looks like a credential."""
    return _without(text, _KNOWN.spans(text))


def mask_values(value: Any) -> Any:
    """A JSON value with known secrets masked in its texts; the value itself if no secret is known."""
    if not _KNOWN:
        return value
    masked: dict[str, str] = {}  # keys repeat
    return _mask_tree(value, lambda text: masked[text] if text in masked else masked.setdefault(text, mask_known(text)))


def mask_settings(value: Any, name: str = "") -> Any:
    """A parameter's value with known secrets masked in its texts, and all texts whose names are those of secrets."""
    if isinstance(value, dict):
        return {key: mask_settings(each, f"{name}.{key}") for key, each in value.items()}
    if isinstance(value, list):
        return [mask_settings(each, name) for each in value]
    if isinstance(value, str):
        return MASK if is_secret_name(name) and not _NOT_SECRET.match(value) else mask_known(value)
    return value


def is_secret_name(name: str) -> bool:
    """Whether a parameter, header or field is named like a secret. Counts of tokens are not."""
    return bool(_SECRET_NAME.search(name)) and not _TOKEN_OF_TEXT.search(name)


def remember_secret(secret: str) -> None:
    """Mask a secret in all later texts. Secrets of less than four characters are ignored: they are common words."""
    _KNOWN.add(secret)


def remember_url(url: str) -> None:
    """Mask the credentials in a URL in all later texts: password, key, and the values in its query that are secret."""
    _, userinfo, rest = _split(url)
    user, _, password = userinfo.partition(":")
    for secret in {password, unquote(password)} - {""}:
        remember_secret(secret)
        # a short secret is masked as a whole word, so the header that is made of it has to be known (RFC 7617)
        remember_secret(base64.b64encode(f"{unquote(user)}:{secret}".encode(errors="replace")).decode())
    if _USER_KEY.fullmatch(user):
        remember_secret(user)
    for name, value in parse_qsl(rest.partition("?")[2].partition("#")[0]):
        if is_secret_name(name) or name.lower() in _SECRET_QUERIES:
            remember_secret(value)


def display_command(arguments: Iterable[str]) -> str:
    """A command line with its secrets masked, quoted for a shell. Replace masked values before you run it."""
    return " ".join(shlex.quote(_masked(argument)) for argument in arguments)


def without_credentials(url: str) -> str:
    """A URL without user, password, query and fragment, for messages."""
    scheme, _, rest = _split(url)
    parts = urlsplit(scheme + rest)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    parts: list[str] = []
    position = 0
    for start, end in merged(spans):
        parts += (text[position:start], MASK)
        position = end
    return "".join([*parts, text[position:]])


def _mask_tree(value: Any, mask: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {mask(key) if isinstance(key, str) else key: _mask_tree(each, mask) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mask_tree(each, mask) for each in value]
    return value


def _masked(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if equals and is_secret_name(name) and not _NOT_SECRET.match(value):
        return f"{name}={MASK}"
    return redact(argument)


def _split(url: str) -> tuple[str, str, str]:
    """Scheme with `://`, user part, and the rest of a URL, which may have no scheme."""
    scheme, separator, rest = url.partition("://")
    if not separator:  # `//host` is a relative reference with an authority (RFC 3986, section 4.2)
        scheme, rest = "", url.removeprefix("//")
    at = _end_of_user(rest)
    return scheme + separator, rest[: max(at, 0)], rest[at + 1 :]


def _end_of_user(rest: str) -> int:
    """The position of the `@` that ends the user part; -1 without one.

    By RFC 3986, section 3.2, it is the last one before the path. A password that was typed as it is may contain `/`,
    `?`, `#` and `@`, and a path may contain `@`: the part behind the last one decides.
    """
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    standard, last = authority.rfind("@"), rest.rfind("@")
    if standard < 0 and not _HOST.fullmatch(authority):
        return last
    is_ambiguous = last > standard and ":" in authority and not {"?", "#"} & set(rest[len(authority) : last])
    return last if is_ambiguous and _DISTINCT_HOST.match(rest, last + 1) else standard
