"""Find the secrets in parameters, so that even the first message, such as one about a wrong value, is masked.

A parameter is a secret by its name, or has credentials in a URL. A command line is read as it was typed, before its
grammar is checked; values of a composed configuration are read again, because they may come from other files.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from ng_rollouts.redaction import is_secret_name, remember_secret, remember_url

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_URL = re.compile(rf"{_SCHEME.pattern}(?:(?!,\s*{_SCHEME.pattern})[^\s\"'<>])+")
"""A URL in text. A comma may be a part of it, but not one before the next URL of a list."""

_ADDRESS_NAME = re.compile(r"(?:urls?|fpath|upload_to|host|address|endpoint|^agents\.[^.]+)$", re.IGNORECASE)
"""Names of parameters whose values are addresses, in which a scheme may be missing."""

_PAIR = re.compile(
    r"""["']?(?P<name>[\w.-]+)["']?[ \t]*[:=][ \t]*"""
    r"""(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|\[(?P<list>[^\]]*)|(?P<plain>[^,}\]\s{["'][^,}\]\s]*))"""
)
"""`name: value`, in YAML, JSON or Hydra's grammar."""

_VARIABLE = re.compile(r"\$\{oc\.env:(?P<name>\w+)(?:,(?P<default>[^}]*))?\}")
_REFERENCE = re.compile(r"\$\{(?:oc\.env:)?([^${},]+)")
_VARIABLE_NAME = re.compile(r"[A-Z][A-Z0-9_]*|[a-z_.]+")
"""Names of environment variables and parameters. Other text is taken for a secret."""

_MIN_SECRET_CHARACTERS = 8
_SWEEP = re.compile(r"^(?:choice|shuffle|sort|tag)\(")
_SEPARATORS = re.compile(r"[\[\](){},]+")
_HTTP_SCHEME = re.compile(
    r"(?:(?P<basic>basic)|bearer|token|apikey|digest|negotiate)\s+(?P<credentials>\S.*)", re.IGNORECASE
)
_NOT_SECRET = frozenset({"null", "none", "true", "false"})


def remember_proxies() -> None:
    """Mask the credentials of the proxies in the environment in all later texts."""
    for name, url in os.environ.items():
        if name.lower().endswith("_proxy") and name.lower() != "no_proxy":
            remember_url(url)


def remember_arguments(arguments: Sequence[str]) -> None:
    """Mask the secrets of a command line, as it was typed, in all later texts."""
    for argument, following in pairwise([*arguments, ""]):
        name, equals, value = argument.lstrip("+-~").partition("=")
        if not equals:  # a mistake that the message about it quotes, such as `--api_key KEY`
            name, value = (name, following) if is_secret_name(name) else ("", argument)
        name = name.partition("@")[0]  # a package of Hydra's grammar
        if is_secret_name(name):
            _remember_mistyped(value)
        _remember_typed(name, value)


def _remember_mistyped(value: str) -> None:
    """Remember a secret that was typed in place of a variable's name, as in `${oc.env:KEY}` or `${KEY}`."""
    for reference in _REFERENCE.findall(value):
        is_variable = reference in os.environ or _VARIABLE_NAME.fullmatch(reference)
        if not is_variable and len(reference) >= _MIN_SECRET_CHARACTERS:
            remember_secret(reference)


def remember_values(value: Any, name: str = "") -> None:
    """Mask the secrets in a parameter's value in all later texts.

    Args:
        value: the value, with dicts and lists.
        name: the dotted name of the parameter.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            remember_values(each, name if is_secret_name(name) else f"{name}.{key}".removeprefix("."))
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        for each in value:
            remember_values(each, name)
    elif isinstance(value, (str, os.PathLike)) or (isinstance(value, int) and not isinstance(value, bool)):
        _remember_text(name, os.fspath(value) if not isinstance(value, int) else str(value))


def remember_file(path: Path) -> None:
    """Mask the secrets in a YAML file, which may not be valid, in all later texts."""
    with suppress(OSError):
        if not path.is_file():  # a pipe would be waited for
            return
        _remember_pairs(path.read_text(encoding="utf-8", errors="replace"))


def _remember_typed(name: str, value: str) -> None:
    """Remember the secrets of `name=value`, in which the value may be a list, a dict or a sweep."""
    value = _resolved(value)
    _remember_text(name, value)
    _remember_text(name, value.strip("\"'"))
    if is_secret_name(name) or _ADDRESS_NAME.search(name):
        for piece in _SEPARATORS.split(_SWEEP.sub("", value)):
            _remember_text(name, piece.strip(" \"'"))
    _remember_pairs(value)


def _remember_pairs(text: str) -> None:
    for pair in _PAIR.finditer(text):
        if is_secret_name(pair["name"]):
            for value in pair["list"].split(",") if pair["list"] else [pair[pair.lastgroup or "name"]]:
                _remember_text(pair["name"], value.strip(" \"'"))
    for url in _URL.findall(text):
        remember_url(url)


def _remember_text(name: str, text: str) -> None:
    text = _resolved(text)
    if is_secret_name(name):
        _remember_credentials(text)
    for url in _urls_in(name, text):
        remember_url(url)


def _resolved(text: str) -> str:
    """A text with the values of its environment variables; empty if it refers to other parameters, which are read."""
    text = _VARIABLE.sub(lambda variable: os.environ.get(variable["name"]) or variable["default"] or "", text)
    return "" if "${" in text else text


def _urls_in(name: str, text: str) -> list[str]:
    # in a text that is one URL, a password may have any character
    is_one = _SCHEME.match(text) and text.count("://") == 1
    is_address = _ADDRESS_NAME.search(name) and "://" not in text and not any(map(str.isspace, text))
    return [text] if is_one or is_address else _URL.findall(text)


def _remember_credentials(value: str) -> None:
    """Remember a secret; of an HTTP header with its scheme, the part that is one (RFC 9110, section 11.4)."""
    if value.lower() in _NOT_SECRET:
        return
    header = _HTTP_SCHEME.fullmatch(value.strip())
    remember_secret(header["credentials"] if header else value)
    if header and header["basic"]:
        with suppress(ValueError):
            remember_secret(b64decode(header["credentials"]).decode().partition(":")[2])
