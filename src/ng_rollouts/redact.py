"""Secrets out of text: what servers say and what was typed may hold keys, files and messages must not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

MASK = "***"

_NAMES = r"(?:api[_-]?key|apikey|access[_-]?key|secret|token|password|passwd|authorization|credential)s?"
_PATTERNS = (
    (re.compile(r"(?P<keep>[a-z][a-z0-9+.-]*://)[^/\s@\"']+@", re.IGNORECASE), rf"\g<keep>{MASK}@"),
    (re.compile(r"(?P<keep>\b(?:bearer|basic)\s+)[\w.~+/=-]{6,}", re.IGNORECASE), rf"\g<keep>{MASK}"),
    (
        re.compile(
            rf"(?P<keep>\b[\w-]*{_NAMES}(?:\s+(?:is|provided))?[\"']?\s*[:=]\s*[\"']?)(?!\$\{{|\d+\b)[^\s\"'&,;}}]{{6,}}",
            re.IGNORECASE,
        ),
        rf"\g<keep>{MASK}",
    ),
    (re.compile(r"\b(?:sk|pk|rk|hf|nvapi|ghp|gho|xox[abp]|glpat|gsk)[-_][\w-]{6,}"), MASK),
    (re.compile(r"\bAKIA[0-9A-Z]{12,}\b"), MASK),
    (re.compile(r"\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*"), MASK),
)
_NAMED_SECRET = re.compile(rf"[+]*[\w.]*{_NAMES}=", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with whatever looks like a credential masked."""
    for pattern, mask in _PATTERNS:
        text = pattern.sub(mask, text)
    return text


def shown_command(arguments: Iterable[str]) -> str:
    """A command line as it may be shown, ready for a shell; a masked value has to be typed again."""
    return " ".join(shlex.quote(_masked(argument)) for argument in arguments)


def _masked(argument: str) -> str:
    name = _NAMED_SECRET.match(argument)
    if name and not argument[name.end() :].startswith("${"):
        return name[0] + MASK
    return redact(argument)
