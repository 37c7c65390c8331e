"""Values have a common column type, or become JSON text."""

from __future__ import annotations

from typing import Any

import pytest

from ng_rollouts.integrations.column_types import ColumnType, coerce, type_of_value, unify


@pytest.mark.parametrize(
    ("values", "column_type"),
    [
        ([1, None, 2.5], "float"),
        ([[], ["x"]], ("list", "text")),
        (["x", [{"role": "user"}]], "json"),
        ([{"a": 1}, {"b": "x"}], {"a": "int", "b": "text"}),
        ([{"a": 1}, {"a": "x"}], {"a": "json"}),
        ([{}, {"a": 1}], "json"),
        ([2**70], "json"),
        ([True, 1], "json"),
        (["\ud800"], "json"),
    ],
)
def test_values_have_a_common_column_type(values: list[Any], column_type: ColumnType) -> None:
    """The type of a column holds all its values; values without a common type are JSON text."""
    unified: ColumnType = None
    for value in values:
        unified = unify(unified, type_of_value(value))
    assert unified == column_type
    assert all(coerce(value, unified) is not None for value in values if value is not None)
