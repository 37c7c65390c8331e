"""Parameters as dataclass fields: default, help text and allowed values in one place, checked by one loop.

`--help`, the documentation and the keywords of the Python API are made from these fields.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, cast

from ng_rollouts.errors import ConfigError

REQUIRED = MISSING
"""The default of a parameter that has none."""

_SPEC = "parameter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The properties of a parameter, other than its name, type and default.

    Attributes:
        help: one line, for `--help` and the documentation.
        doc: more than `help`, for the documentation alone (Markdown).
        required: whether a value must be set.
        nonempty: whether an empty string or list is an error.
        choices: the allowed values.
        minimum, maximum: inclusive bounds of a number.
        above, below: exclusive bounds of a number.
        kind: the type as shown to users, where it differs from the annotation.
        annotation: the type in the Python API, where it differs from the annotation.
        text_keys: keys of a dict whose values are text, and are taken from the command line as they are typed.
        decides_results: whether another value gives other rollouts, so that a resume must not change it.
    """

    help: str
    doc: str = ""
    required: bool = False
    nonempty: bool = False
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    kind: str = ""
    annotation: str = ""
    text_keys: tuple[str, ...] = ()
    decides_results: bool = False


def param(default: Any, help: str, **spec: Any) -> Any:  # noqa: A002 - the field's usual name
    """Define a parameter; further arguments are the attributes of `Spec`.

    A mutable default is copied for each configuration. Where a class needs a default for a required parameter, give a
    placeholder and `required=True`.
    """
    spec.setdefault("required", default is REQUIRED)
    metadata = {_SPEC: Spec(help=help, **spec)}
    if isinstance(default, (dict, list)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def same_as(config: type, name: str) -> Any:
    """Define a parameter that another configuration has too, with the same default, help and bounds."""
    other = next(each for each in fields(config) if each.name == name)
    if other.default_factory is not MISSING:
        return field(default_factory=other.default_factory, metadata=other.metadata)
    return field(default=other.default, metadata=other.metadata)


def spec_of(each: Field[Any]) -> Spec | None:
    """The `Spec` of a field; None if it was not defined by `param`."""
    return each.metadata.get(_SPEC)


def default_of(each: Field[Any]) -> Any:
    """The default of a field."""
    return each.default_factory() if each.default_factory is not MISSING else each.default


def check_fields(config: Any, prefix: str = "") -> None:
    """Check every parameter of a configuration, and of nested ones, against its bounds and choices.

    Raises:
        ConfigError: a value is missing, empty, out of range or not one of the choices.
    """
    for each in fields(config):
        value, name = getattr(config, each.name), prefix + each.name
        if is_dataclass(value):
            check_fields(value, f"{name}.")
        elif spec := spec_of(each):
            _check(name, value, spec)


def parameter_fields(config: type) -> Iterator[tuple[Field[Any], Spec]]:
    """The fields that a class itself defines as parameters, without those it inherits."""
    # `fields` includes inherited fields, and the annotations of a class are its own. Each mixin is one section of the
    # documentation, so a parameter must be listed in its own section only.
    own = inspect.get_annotations(config)
    for each in fields(config):
        if each.name in own and (spec := spec_of(each)):
            yield each, spec


def _check(name: str, value: Any, spec: Spec) -> None:
    if spec.required and not value:
        raise ConfigError(f"{name} is missing: add +{name}={'PATH' if spec.kind == 'path' else 'VALUE'}")
    if spec.nonempty and value in ("", []):
        raise ConfigError(f"{name} is empty: leave it out, or give it a value")
    if value is None:
        return
    if spec.choices and value not in spec.choices:
        wanted = f"one of {', '.join(spec.choices)}" if len(spec.choices) > 1 else f"{spec.choices[0]} or null"
        raise ConfigError(f"{name} must be {wanted}, got {value!r}")
    if isinstance(value, int) and abs(value) > sys.maxsize:
        raise ConfigError(f"{name} is too large a number: {value}")
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{name} must be a finite number, got {value}")
    if (wanted := _bounds(spec)) and not _is_within(cast("float", value), spec):
        raise ConfigError(f"{name} must be {wanted}, got {value:g}")


def _is_within(value: float, spec: Spec) -> bool:
    return (
        (spec.minimum is None or value >= spec.minimum)
        and (spec.maximum is None or value <= spec.maximum)
        and (spec.above is None or value > spec.above)
        and (spec.below is None or value < spec.below)
    )


def _bounds(spec: Spec) -> str:
    """The allowed range in words; empty if there is none."""
    if spec.minimum is not None and spec.maximum is not None:
        return f"from {spec.minimum:g} to {spec.maximum:g}"
    bounds = (
        (">=", spec.minimum),
        ("<=", spec.maximum),
        ("more than", spec.above),
        ("less than", spec.below),
    )
    return " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)
