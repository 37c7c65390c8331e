"""Text that is taken as it is typed, although it passes through OmegaConf.

OmegaConf has no literal strings: `${` begins an interpolation in any text, and `???` is a missing value. A mark inside
of both hides them, from the command line until the configuration is made.
"""

from __future__ import annotations

import re
from typing import Any

_MARK = "\U000f7a5c"
"""A character for private use. One that is typed is doubled."""

_MARKED = re.compile(f"{_MARK}({_MARK}?)")


def marked(text: str) -> str:
    """Text in which OmegaConf finds nothing."""
    text = text.replace(_MARK, _MARK * 2).replace("${", f"${_MARK}{{")
    return f"?{_MARK}??" if text == "???" else text


def unmarked(text: str) -> str:
    """Text as it was typed."""
    return _MARKED.sub(r"\1", text)


def unmark_values(container: Any) -> None:
    """Replace the texts in a dict or list, at any depth, by what was typed."""
    pairs = container.items() if isinstance(container, dict) else enumerate(container)
    for key, value in list(pairs):
        if isinstance(value, str):
            container[key] = unmarked(value)
        elif isinstance(value, (dict, list)):
            unmark_values(value)
