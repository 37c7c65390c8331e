"""Makes configuration dataclasses from values by name. The only module that checks names and types."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ng_rollouts.errors import ConfigError, did_you_mean

T = TypeVar("T")


def build(
    kind: type[T], values: Mapping[str, Any], *, prefix: str = "", groups: Collection[str] = (), form: str = "{}"
) -> T:
    """Make a configuration.

    Args:
        values: by the names of the fields; nested configurations as mappings.
        prefix: goes before names in messages.
        groups: further names to suggest for a typing mistake.
        form: how a name is typed, in the suggestion.

    Raises:
        ConfigError: a name is unknown, a required value is missing, or a value has the wrong type.
    """
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            every = f": the parameters are {', '.join(known)}"
            hint = did_you_mean(name, [*known, *groups], form=form, otherwise=every)
            raise ConfigError(f"unknown parameter {prefix + name!r}{hint}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{prefix}{name} is missing: add +{prefix}{name}=VALUE")
    return kind(**{name: convert(f"{prefix}{name}", value, hints[name]) for name, value in values.items()})


def convert(name: str, value: Any, hint: Any) -> Any:
    """A value as its parameter stores it: paths as text, numbers of other libraries as Python's.

    Raises:
        ConfigError: it has the wrong type.
    """
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if hint is Any:
        return [os.fspath(each) if isinstance(each, Path) else each for each in value] if _is_list(value) else value
    if is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return build(hint, value, prefix=f"{name}.")
        kinds = (hint,)
    # Abstract numbers include those of NumPy. `bool` is a subclass of `int`, but true is not a valid number here.
    for kind in kinds:
        plain = get_origin(kind) or kind
        if plain is float and isinstance(value, Real) and not isinstance(value, bool):
            return float(value)
        if plain is int and isinstance(value, Integral) and not isinstance(value, bool):
            return int(value)
        if plain is dict and isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, plain) and (plain is bool or not isinstance(value, bool)):
            return value
    wanted = " or ".join("None" if kind is NoneType else (get_origin(kind) or kind).__name__ for kind in kinds)
    raise ConfigError(f"{name} must be {wanted}, got {value!r}")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
