"""Prompt templates, which make a row's input messages from its fields.

A placeholder is the name of a top-level field. Attributes, items, conversions and format specs are not supported:
`str.format` would let a template read attributes of Python objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from ng_rollouts.errors import ConfigError, InputError, did_you_mean
from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json

Part = tuple[str, str | None]
"""Literal text, and the field that follows it (None at the end)."""


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template.

    Attributes:
        messages: the messages of a row's input in order, each as its role and its parts.
        defaults: texts for fields that are null or missing.
    """

    messages: tuple[tuple[str, tuple[Part, ...]], ...]
    defaults: tuple[tuple[str, str], ...] = ()

    def fill(self, row: Json) -> list[Json]:
        """The messages for one row.

        Raises:
            InputError: a field that the template names is null or missing, and has no default.
        """
        defaults = dict(self.defaults)
        return [{"role": role, "content": _fill(parts, row, defaults)} for role, parts in self.messages]


def load_template(path: str) -> Template:
    """Read a template file: YAML with `user` and an optional `system`.

    Raises:
        ConfigError: the file cannot be read, or is not a template.
    """
    import yaml  # noqa: PLC0415 - only runs with a template need it

    file = Path(path).expanduser()
    if file.exists() and not file.is_file():  # a device may have no end
        raise ConfigError(f"prompt_config {path} cannot be read: it is not a regular file")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        # The text of an OSError has the error number and the name again.
        reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
        raise ConfigError(f"prompt_config {path} cannot be read: {reason}") from error
    return parse_template(content, f"prompt_config {path}")


def parse_template(content: Any, label: str) -> Template:
    """Parse the texts of a template.

    Args:
        content: an object with the text `user`, and optionally the text `system`.
        label: the template in messages, such as a parameter with its value.

    Raises:
        ConfigError: the content is not a template.
    """
    if not isinstance(content, dict) or not isinstance(content.get("user"), str):
        raise ConfigError(f"{label} needs a `user:` template (text); a `system:` template is optional")
    unknown = sorted(str(key) for key in content if key not in ("system", "user", "default"))
    if unknown:
        allowed = "only `system`, `user` and `default` are allowed"
        raise ConfigError(f"{label} has unknown keys: {', '.join(unknown)}: {allowed}")
    defaults = content.get("default") or {}
    if not isinstance(defaults, dict):
        raise ConfigError(f"{label}: `default` must map fields to texts, got {defaults!r}")
    texts = [(role, content[role]) for role in ("system", "user") if content.get(role) is not None]
    messages = tuple((role, _parse(text, f"{label}, `{role}`")) for role, text in texts)
    named = {name for _, parts in messages for _, name in parts if name is not None}
    unused = [str(name) for name in defaults if str(name) not in named]
    if unused:
        hint = did_you_mean(unused[0], named, otherwise=": remove it from `default`")
        raise ConfigError(f"{label}: `default` has {unused[0]!r}, which the template does not use{hint}")
    # YAML has null for a default that is left empty
    texts_by_name = ((str(name), "" if text is None else _text(text)) for name, text in defaults.items())
    return Template(messages, tuple(texts_by_name))


def _parse(text: Any, label: str) -> tuple[Part, ...]:
    if not isinstance(text, str):
        raise ConfigError(f"{label} must be text, got {text!r}")
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"{label}: {error}: write {{{{ and }}}} for literal braces") from error
    for _, name, spec, conversion in parsed:
        if name is not None and (not name or spec or conversion):
            raise ConfigError(f"{label}: a placeholder must be the name of a field, as in {{question}}")
    return tuple((literal, name) for literal, name, _, _ in parsed)


def _fill(parts: tuple[Part, ...], row: Json, defaults: dict[str, str]) -> str:
    texts = []
    for literal, name in parts:
        texts.append(literal)
        if name is None:
            continue
        if row.get(name) is not None:
            texts.append(_text(row[name]))
        elif name in defaults:
            texts.append(defaults[name])
        elif name in row:
            fix = "set it, or add a default to the template"
            raise InputError(f"the prompt template needs the field {name!r}, which is null: {fix}")
        else:
            raise InputError(f"the prompt template needs the field {name!r}, which the row does not have")
    return "".join(texts)


def _text(value: Any) -> str:
    # everything but text as JSON, which models know better than Python's notation
    return value if isinstance(value, str) else dumps(value).decode()
