"""How much texts differ: shares of distinct ones, exactly and but for case and white space."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ng_rollouts.types import Json

_PARTS = 16
"""Distinct digests are counted a part at a time, so that few of them are in a set at once."""


@dataclass(slots=True)
class Diversity:
    """Of all texts a digest is kept, eight bytes each.

    Attributes:
        what: what the texts are, as a plural.
    """

    what: str
    _exact: array[int] = field(default_factory=lambda: array("q"))
    _alike: array[int] = field(default_factory=lambda: array("q"))

    def add_group(self, texts: Sequence[str]) -> Json:
        """The shares within a group, which is taken in."""
        if not texts:
            return {}
        alike = [" ".join(text.casefold().split()) for text in texts]
        self._exact.extend(map(hash, texts))
        self._alike.extend(map(hash, alike))
        return {
            f"share_distinct_{self.what}": len(set(texts)) / len(texts),
            f"share_distinct_{self.what}_normalised": len(set(alike)) / len(texts),
        }

    @property
    def count(self) -> int:
        """How many texts there were."""
        return len(self._exact)

    def summary_line(self) -> Iterator[str]:
        """A line, if there are any."""
        if total := self.count:
            exact, alike = _distinct(self._exact), _distinct(self._alike)
            share = f"{exact}/{total} ({100 * exact / total:.1f}%)"
            yield f"Distinct {self.what}: {share}, {alike} but for case and white space"


def _distinct(digests: array[int]) -> int:
    return sum(len({digest for digest in digests if digest % _PARTS == part}) for part in range(_PARTS))
