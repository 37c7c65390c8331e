"""Collect thousands of LLM rollouts: in order, in complete groups, resumable, and without losing a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ng_rollouts._version import __version__

if TYPE_CHECKING:
    from ng_rollouts.api import RolloutGroup, collect, collect_groups, read_groups, read_rollouts
    from ng_rollouts.config.kwargs import Parameters

__all__ = ["Parameters", "RolloutGroup", "__version__", "collect", "collect_groups", "read_groups", "read_rollouts"]


if not TYPE_CHECKING:  # a type checker that sees `__getattr__` accepts every name

    def __getattr__(name: str) -> Any:
        """Import the public names on first use (PEP 562), because the command starts faster without them."""
        if name in __all__:
            from ng_rollouts import api  # noqa: PLC0415
            from ng_rollouts.config import kwargs  # noqa: PLC0415

            return getattr(kwargs if name == "Parameters" else api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
