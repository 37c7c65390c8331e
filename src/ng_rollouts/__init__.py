"""Collect LLM rollouts by the thousand: ordered, complete groups, resumable, no row lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ng_rollouts._version import __version__

if TYPE_CHECKING:
    from ng_rollouts.api import collect, collect_groups, read_groups, read_rollouts
    from ng_rollouts.config.kwargs import Parameters

__all__ = ["Parameters", "__version__", "collect", "collect_groups", "read_groups", "read_rollouts"]


if not TYPE_CHECKING:  # or every name would be known

    def __getattr__(name: str) -> Any:
        if name in __all__:
            from ng_rollouts import api  # noqa: PLC0415 - the command has no use for them
            from ng_rollouts.config import kwargs  # noqa: PLC0415

            return getattr(kwargs if name == "Parameters" else api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
