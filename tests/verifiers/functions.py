"""Verifiers of the kind that users write: with numbers of numpy."""

from __future__ import annotations

from typing import Any


def numpy_of_kind(row: Any, response: Any) -> Any:
    """A reward of the kind that the row names."""
    import numpy as np

    return {
        "float32": np.float32(0.5),
        "int64": np.int64(1),
        "bool": np.bool_(True),  # noqa: FBT003
        "zero": np.array(1.0),
        "dict": {"reward": np.float64(0.25), "ok": np.bool_(False)},  # noqa: FBT003
        "vector": np.array([1.0, 0.0]),
        "text": "1",
        "none": None,
    }[row["returns"]]
