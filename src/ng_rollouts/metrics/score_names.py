"""Limit the number of different scores that metrics are computed for."""

from __future__ import annotations

from ng_rollouts.console import log
from ng_rollouts.types import RolloutStats

MAX_SCORE_NAMES = 4000
"""Replies may have different scores each, such as one per test case. Each costs memory and a place in every report."""

_ALWAYS_COUNTED = ("reward", "accuracy")


class ScoreNames:
    """The names of the scores that count: the first `MAX_SCORE_NAMES` that occur."""

    def __init__(self) -> None:
        self._names: set[str] = set(_ALWAYS_COUNTED)
        self._is_exceeded = False

    def limit(self, stats: RolloutStats) -> RolloutStats:
        """The statistics of a rollout with the scores that count. The first time that some do not, a line says so."""
        if stats.scores.keys() <= self._names:
            return stats
        room = MAX_SCORE_NAMES - len(self._names)
        new = [name for name in stats.scores if name not in self._names]
        self._names.update(new[:room])
        if len(new) <= room:
            return stats
        if not self._is_exceeded:
            self._is_exceeded = True
            log(f"warning: rollouts have more than {MAX_SCORE_NAMES} different scores: metrics leave out further ones")
        return stats._replace(scores={name: value for name, value in stats.scores.items() if name in self._names})
