"""Measures how much texts differ: the share of distinct texts, exactly and ignoring case and white space."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ng_rollouts.types import Json

_PARTITIONS = 16
"""Distinct hashes are counted one partition at a time, so that only one partition's set is in memory."""


@dataclass(slots=True)
class Diversity:
    """Counts distinct texts.

    Only a hash of each text is kept, which takes eight bytes. Two of a billion texts share a 64-bit hash with a
    probability of about 3 %, and a collision changes the count by one.

    Attributes:
        label: the name of the texts, as a plural, such as `answers`.
        is_within_groups: whether equal texts of different groups count as distinct: answers of different tasks do.
    """

    label: str
    is_within_groups: bool = False
    _exact: array[int] = field(default_factory=lambda: array("q"))
    _normalised: array[int] = field(default_factory=lambda: array("q"))
    _distinct: int = 0
    _distinct_normalised: int = 0

    def add_group(self, texts: Sequence[str]) -> Json:
        """Add the texts of a group; the shares within the group."""
        if not texts:
            return {}
        normalised = [" ".join(text.casefold().split()) for text in texts]
        self._distinct += len(set(texts))
        self._distinct_normalised += len(set(normalised))
        # `hash` differs between processes, which is fine: these hashes are never stored.
        self._exact.extend(map(hash, texts))
        self._normalised.extend(map(hash, normalised))
        return {
            f"share_distinct_{self.label}": len(set(texts)) / len(texts),
            f"share_distinct_{self.label}_normalised": len(set(normalised)) / len(texts),
        }

    @property
    def count(self) -> int:
        """The number of texts."""
        return len(self._exact)

    def summary_line(self) -> Iterator[str]:
        """One line for the terminal; none without texts."""
        if total := self.count:
            exact, normalised = self._distinct, self._distinct_normalised
            if not self.is_within_groups:
                exact, normalised = _count_distinct(self._exact), _count_distinct(self._normalised)
            share = f"{exact}/{total} ({100 * exact / total:.1f}%)"
            label = f"{self.label} within tasks" if self.is_within_groups else self.label
            yield f"Distinct {label}: {share}, {normalised} ignoring case and white space"


def _count_distinct(hashes: array[int]) -> int:
    return sum(len({value for value in hashes if value % _PARTITIONS == partition}) for partition in range(_PARTITIONS))
