"""The health of all rollouts of a file or a run: added in any order, reported in the order of their keys.

Memory: 40 bytes for each rollout, in arrays, and the names of rollouts that have their own.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ng_rollouts.health.checks import CHECKS, Check, mask_of, unobserved_mask_of
from ng_rollouts.health.rollout import digest_of
from ng_rollouts.types import RolloutHealth, RolloutKey

MAX_INDEX = 2**64 - 1
"""The largest task or rollout index that a report can hold."""


@dataclass(slots=True)
class CallTotals:
    """Sums over the model calls of all rollouts.

    Attributes:
        captures: rollouts with captured calls.
        failed: failed calls by status.
        rollouts_with_failures: rollouts with at least one.
        ended_on_failure: rollouts in which the last call of a model failed.
        replayed, rollouts_with_replays: calls that repeat another, and the rollouts that have some.
        prompt_tokens, completion_tokens: of the calls.
        usage_prompt_tokens, usage_completion_tokens: of the usage of the responses.
    """

    captures: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    rollouts_with_failures: int = 0
    ended_on_failure: int = 0
    replayed: int = 0
    rollouts_with_replays: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usage_prompt_tokens: int = 0
    usage_completion_tokens: int = 0

    def add(self, health: RolloutHealth) -> None:
        """Add a rollout."""
        prompt, completion = health.tokens
        self.usage_prompt_tokens += prompt
        self.usage_completion_tokens += completion
        if (calls := health.calls) is None:
            return
        self.captures += calls.calls > 0
        if calls.failed:
            self.failed.update(calls.failed)
            self.rollouts_with_failures += 1
        self.ended_on_failure += calls.ended_on_failure
        self.replayed += calls.replayed
        self.rollouts_with_replays += calls.replayed > 0
        self.prompt_tokens += calls.prompt_tokens
        self.completion_tokens += calls.completion_tokens


@dataclass(slots=True)
class Columns:
    """The rollouts by column, in the order in which they were added.

    Attributes:
        tasks, rollouts: their keys.
        masks: their findings and facts.
        answers: digests of their answers as integers; 0 without an answer.
        rewards: their rewards; NaN without one.
        ids, stages: the names and stages of those that have one, by number.
    """

    tasks: array[int] = field(default_factory=lambda: array("Q"))
    rollouts: array[int] = field(default_factory=lambda: array("Q"))
    masks: array[int] = field(default_factory=lambda: array("Q"))
    answers: array[int] = field(default_factory=lambda: array("Q"))
    rewards: array[float] = field(default_factory=lambda: array("d"))
    ids: dict[int, str] = field(default_factory=dict)
    stages: dict[int, Any] = field(default_factory=dict)

    def add(self, key: RolloutKey, mask: int, health: RolloutHealth) -> None:
        """Add a rollout."""
        number = len(self.masks)
        # First, so that an index that is too large leaves the columns as they were.
        task_index, rollout_index = _index(key.task_index), _index(key.rollout_index)
        if health.rollout_id and health.rollout_id != f"{task_index}-{rollout_index}":
            self.ids[number] = health.rollout_id
        if health.stage is not None:
            self.stages[number] = health.stage
        self.tasks.append(task_index)
        self.rollouts.append(rollout_index)
        self.masks.append(mask)
        self.answers.append(digest_of(health.answer))
        self.rewards.append(math.nan if health.reward is None else health.reward)

    def order(self) -> Sequence[int]:
        """The numbers of the rollouts in the order of their keys."""
        keys = [task << 64 | rollout for task, rollout in zip(self.tasks, self.rollouts, strict=True)]
        if all(first < second for first, second in pairwise(keys)):
            return range(len(keys))
        order = sorted(range(len(keys)), key=keys.__getitem__)
        if all(keys[first] < keys[second] for first, second in pairwise(order)):
            return order
        # Rows of the same rollout: in an order that does not depend on that of the file.
        return sorted(order, key=lambda at: (keys[at], str(self.stages.get(at)), self.masks[at], self.ids.get(at, "")))

    def same_rollout(self, first: int, second: int) -> bool:
        """True for two rows of one rollout, in one stage."""
        return (
            self.tasks[first] == self.tasks[second]
            and self.rollouts[first] == self.rollouts[second]
            and self.stages.get(first) == self.stages.get(second)
        )


class HealthReport:
    """Collects the health of rollouts. `close_report` applies the rules about tasks.

    Attributes:
        ignored: checks whose findings are left out.
        columns: the rollouts.
        lines: numbers of the lines that are not rollouts.
        totals: sums over model calls.
    """

    def __init__(self, ignored: Iterable[Check] = ()) -> None:
        left_out = frozenset(ignored)
        self.ignored = tuple(check for check in CHECKS if check in left_out)
        self.columns = Columns()
        self.lines = array("Q")
        self.totals = CallTotals()
        self.kept = ~(mask_of(self.ignored) | unobserved_mask_of(self.ignored))

    @property
    def has_rollouts(self) -> bool:
        """True if any line is a rollout."""
        return len(self.columns.masks) > 0

    def __len__(self) -> int:
        """The number of rollouts and unreadable lines."""
        return len(self.columns.masks) + len(self.lines)

    def add(self, key: RolloutKey, health: RolloutHealth) -> None:
        """Add a rollout.

        Raises:
            ValueError: an index is larger than `MAX_INDEX`.
        """
        self.columns.add(key, health.mask & self.kept, health)
        self.totals.add(health)

    def add_unreadable(self, line: int) -> None:
        """Add a line that is not a rollout, by its number from 1."""
        self.lines.append(line)


def _index(value: int) -> int:
    if value > MAX_INDEX:
        raise ValueError(f"the index {value} is too large")
    return value
