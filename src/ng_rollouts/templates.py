"""Prompt templates: a row's fields -> its input messages.

A template reaches the row's top-level fields by name and nothing else: no attributes, no items, no formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json

Part = tuple[str, str | None]
"""Literal text, and the field that follows it (None at the end)."""


@dataclass(frozen=True, slots=True)
class Template:
    """The messages that make a row's input: (role, parts), in order."""

    messages: tuple[tuple[str, tuple[Part, ...]], ...]

    def fill(self, row: Json) -> list[Json]:
        """The messages for one row.

        Raises:
            InputError: the row lacks a field that the template names.
        """
        return [{"role": role, "content": _fill(parts, row)} for role, parts in self.messages]


def load_template(path: str) -> Template:
    """Read a template file: YAML with `user` and, if wanted, `system`.

    Raises:
        ConfigError: the file cannot be read, or is no template.
    """
    import yaml  # noqa: PLC0415 - only runs with a template need it

    try:
        content = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"prompt_config {path} cannot be read: {reason}") from error
    return parse_template(content, f"prompt_config {path}")


def parse_template(content: Any, where: str) -> Template:
    """A template by its texts: `user` and, if wanted, `system`.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(content, dict) or not isinstance(content.get("user"), str):
        raise ConfigError(f"{where} needs a `user:` template (text), and may have a `system:` one")
    unknown = sorted(str(key) for key in content if key not in ("system", "user"))
    if unknown:
        raise ConfigError(f"{where} may hold `system` and `user`, not {', '.join(unknown)}")
    texts = [(role, content[role]) for role in ("system", "user") if content.get(role) is not None]
    return Template(tuple((role, _parse(text, f"{where}, `{role}`")) for role, text in texts))


def _parse(text: Any, where: str) -> tuple[Part, ...]:
    if not isinstance(text, str):
        raise ConfigError(f"{where} must be text, got {text!r}")
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"{where}: {error} (write {{{{ and }}}} for literal braces)") from error
    for _, name, spec, conversion in parsed:
        if name is not None and (not name or spec or conversion):
            raise ConfigError(f"{where}: a placeholder is a field's name, as in {{question}}")
    return tuple((literal, name) for literal, name, _, _ in parsed)


def _fill(parts: tuple[Part, ...], row: Json) -> str:
    pieces = []
    for literal, name in parts:
        pieces.append(literal)
        if name is None:
            continue
        if name not in row:
            raise InputError(f"the prompt template needs the field {name!r}, which the row lacks")
        pieces.append(_text(row[name]))
    return "".join(pieces)


def _text(value: Any) -> str:
    return dumps(value).decode() if isinstance(value, (dict, list)) else str(value)
