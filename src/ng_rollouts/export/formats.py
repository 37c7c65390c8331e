"""The recipes: each converts groups of rollouts to training data and keeps statistics for the summary."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from itertools import combinations, islice
from pathlib import Path
from typing import ClassVar

from ng_rollouts.errors import InputError
from ng_rollouts.export.atif import Identity, trajectory_of
from ng_rollouts.export.atif_steps import Lost
from ng_rollouts.export.config import ExportConfig
from ng_rollouts.export.example import Example, Skipped, usable
from ng_rollouts.export.messages import MessageForm
from ng_rollouts.export.trainers import layout_of
from ng_rollouts.inputs.exported_task import TASK_FIELDS, exported_row
from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.storage.compression import base_name
from ng_rollouts.types import MASK, Json, key_of

Scored = tuple[Example, float]
"""An example and its score."""

ExportRows = Iterator[tuple[Json, list[Json]]]
"""Rows of training data, each with its prompt."""

_TOLERANCE = 1e-9
"""In floating point, 1.0 - 0.8 is slightly less than 0.2; it still counts as a gap of 0.2."""

_ROLLOUT_FIELDS = frozenset(
    {
        *("response", "output", "input", "reward", "accuracy", "extracted_answer", "normalized_answer"),
        *(MASK, "failure_kind", "failure_reason"),
    }
)
"""Fields that belong to a rollout, not to its task, even if all rollouts of a group agree on them."""


class ExportFormat(ABC):
    """Converts groups to training data, one at a time.

    Attributes:
        skipped: skipped rollouts and groups, counted by reason.
        groups: the number of groups so far.
        scores: the names of all scores that were seen, for the message if `config.score` is not among them.
        layout: how the trainer takes the rows.
        notes: what the user has to give the trainer beside the rows, with the number of rows that need it.
        needs_score: whether the rows depend on `config.score`.
        column_types: the columns in Parquet with their types, in the terms of `integrations.column_types`; None for a
            type that follows from the values.
    """

    needs_score = True
    column_types: ClassVar[Json] = {}

    def __init__(self, config: ExportConfig) -> None:
        self.config = config
        self._form = MessageForm(**{each.name: getattr(config, each.name) for each in fields(MessageForm)})
        self.layout = layout_of(config)
        self.skipped = Skipped()
        self.notes: Counter[str] = Counter()
        self.groups = 0
        self.scores: set[str] = set()

    def rows(self, group: list[Json]) -> ExportRows:
        """The training data from the rows of one group.

        Raises:
            InputError: with `group_by=position`, the rows have different prompts.
        """
        self.groups += 1
        examples = [Example(row, self._form) for row in group]
        for example in examples:
            self.scores |= example.scores.keys()
        valid = sum(not example.is_masked for example in examples)
        if valid < self.config.min_valid_per_group:
            self.skipped[f"groups with fewer than {self.config.min_valid_per_group} valid rollouts"] += 1
            return iter(())
        return ((self.layout.convert(row), prompt) for row, prompt in self._examples(examples))

    @abstractmethod
    def _examples(self, group: list[Example]) -> ExportRows: ...

    def check(self, source: Path) -> None:
        """Check, after the last group, that the rollouts had what the rows are made from.

        Raises:
            InputError: none of them had it.
        """
        if self.needs_score and self.config.score not in self.scores:
            available = ", ".join(sorted(self.scores)) or "none"
            raise InputError(
                f"no rollout of {source} has the score {self.config.score!r}: available scores: {available}"
            )

    def _usable(self, group: list[Example]) -> Iterator[Scored]:
        """The examples that pass all filters and have a place in the trainer's rows; the others are counted."""
        return usable(group, self.config, self.skipped, self.layout.obstacle)

    def _with_first_prompt(self, group: list[Example]) -> list[Example]:
        """The examples with the same prompt as the first one: scores of different prompts cannot be compared."""
        first = group[0]
        same = [each for each in group if (each.prompt, each.images) == (first.prompt, first.images)]
        if len(same) < len(group) and self.config.group_by == "position":
            raise InputError(f"group {self.groups} contains different prompts: is num_repeats={len(group)} right?")
        self.skipped["different prompt in the same group"] += len(group) - len(same)
        return same

    def summary_lines(self) -> Iterator[str]:
        """Statistics as lines for stdout."""
        yield from ()

    def statistics(self) -> Json:
        """Statistics as numbers, for the JSON at the end of stdout."""
        return {}


class Sft(ExportFormat):
    """Supervised fine-tuning: whole conversations as `messages`."""

    def __init__(self, config: ExportConfig) -> None:
        super().__init__(config)
        self._deduplicator = _Deduplicator(config)

    def _examples(self, group: list[Example]) -> ExportRows:
        group = self._with_first_prompt(group) if self.config.best_of_group else group
        examples = list(self._usable(group))
        if self.config.best_of_group and examples:
            self.skipped["not the best of the group"] += len(examples) - 1
            # of equal scores, `max` returns the first
            examples = [max(examples, key=lambda pair: pair[1])]
        for example, score in self._deduplicator.unique(examples, self.skipped):
            messages = [*example.prompt, *example.completion]
            row = {"messages": messages, **example.columns, **_task_ids(example), self.config.score: score}
            yield row, example.prompt


class Kto(ExportFormat):
    """Kahneman-Tversky optimization: completions, each labelled desirable or not."""

    def __init__(self, config: ExportConfig) -> None:
        super().__init__(config)
        self._deduplicator = _Deduplicator(config)
        self._desirable = self._undesirable = 0

    def _examples(self, group: list[Example]) -> ExportRows:
        for example, score in self._deduplicator.unique(self._usable(group), self.skipped):
            label = score >= self.config.threshold
            self._desirable, self._undesirable = self._desirable + label, self._undesirable + (not label)
            row = {"prompt": example.prompt, "completion": example.completion, "label": label}
            yield {**row, **example.columns, **_task_ids(example), self.config.score: score}, example.prompt

    def summary_lines(self) -> Iterator[str]:
        yield f"Desirable: {self._desirable}, undesirable: {self._undesirable}"

    def statistics(self) -> Json:
        return {"desirable": self._desirable, "undesirable": self._undesirable}


class Dpo(ExportFormat):
    """Direct preference optimization: pairs of completions, of which the chosen one has the higher score."""

    def __init__(self, config: ExportConfig) -> None:
        super().__init__(config)
        self._rng = random.Random(config.seed)  # noqa: S311 - selects pairs, not secrets
        self._stats = {"chosen": RunningStats(), "rejected": RunningStats(), "gap": RunningStats()}
        self._groups_with_pairs = 0

    def _examples(self, group: list[Example]) -> ExportRows:
        same = self._with_first_prompt(group)
        ranked = sorted(self._usable(same), key=lambda pair: pair[1], reverse=True)
        if len(ranked) < 2:
            self.skipped["groups with fewer than two usable rollouts"] += 1
            return
        pairs = self._pairs(ranked)
        if not pairs:
            is_one_answer = all(example.completion == ranked[0][0].completion for example, _ in ranked)
            gap = f"without a reward gap of {self.config.min_reward_gap:g}"
            self.skipped[f"groups {'with only one distinct answer' if is_one_answer else gap}"] += 1
        self._groups_with_pairs += bool(pairs)
        for (chosen, higher), (rejected, lower) in pairs:
            for name, value in (("chosen", higher), ("rejected", lower), ("gap", higher - lower)):
                self._stats[name].add(value)
            row = {
                "prompt": chosen.prompt,
                "chosen": chosen.completion,
                "rejected": rejected.completion,
                **chosen.columns,
                **_task_ids(chosen),
                "reward_chosen": higher,
                "reward_rejected": lower,
                "reward_gap": higher - lower,
            }
            yield row, chosen.prompt

    def _pairs(self, ranked: list[Scored]) -> list[tuple[Scored, Scored]]:
        """The pairs that `pairing` selects.

        Args:
            ranked: at least two examples, from the highest score to the lowest.
        """
        if self.config.pairing in ("all", "random"):
            candidates = list(combinations(ranked, 2))
        else:
            # the second best or the worst may be the same answer as the best: take the next different one
            others = ranked[1:] if self.config.pairing == "best_second" else ranked[:0:-1]
            different = (other for other in others if other[0].completion != ranked[0][0].completion)
            candidates = [(ranked[0], other) for other in islice(different, 1)]
        pairs = [pair for pair in candidates if self._is_pair(*pair)]
        return [self._rng.choice(pairs)] if pairs and self.config.pairing == "random" else pairs

    def _is_pair(self, better: Scored, worse: Scored) -> bool:
        """Whether two examples differ enough in score, and differ in their completion."""
        gap = better[1] - worse[1]
        is_wide = gap > 0 and gap >= self.config.min_reward_gap - _TOLERANCE
        return is_wide and better[0].completion != worse[0].completion

    def summary_lines(self) -> Iterator[str]:
        """Statistics of the pairs, in the format of NeMo Gym's guides."""
        count = self._stats["gap"].count
        yield f"Created {count} preference pairs from {self.groups} groups"
        yield f"Pair creation rate: {100 * self._groups_with_pairs / self.groups if self.groups else 0:.1f}%"
        for name, stats in self._stats.items():
            if count:
                yield f"{name.capitalize() + ':':<9} μ={stats.mean:.3f}, σ={stats.sd:.3f}"

    def statistics(self) -> Json:
        spread = {
            f"reward_{name}": {"mean": stats.mean, "sd": stats.sd} for name, stats in self._stats.items() if stats.count
        }
        rate = self._groups_with_pairs / self.groups if self.groups else 0.0
        return {"pairs": self._stats["gap"].count, "pair_creation_rate": rate, **spread}


class Rl(ExportFormat):
    """Reinforcement learning: prompts with the pass rate of their group, which can be used as tasks again."""

    def _examples(self, group: list[Example]) -> ExportRows:
        group = self._with_first_prompt(group)
        unmasked = [example for example in group if not example.is_masked]
        self.skipped["masked"] += len(group) - len(unmasked)
        valid = [not example.is_masked for example in group]
        group = unmasked or group
        scores = [score for example in unmasked if (score := example.scores.get(self.config.score)) is not None]
        self.skipped[f"no {self.config.score}"] += len(unmasked) - len(scores)
        if not unmasked:
            self.skipped["groups without a valid rollout"] += 1
            return
        if not scores or not (prompt := group[0].prompt):
            self.skipped["groups without a prompt or a score"] += 1
            return
        stats = RunningStats.of(scores)
        pass_rate = sum(score >= self.config.threshold for score in scores) / len(scores)
        if pass_rate < self.config.min_pass_rate:
            self.skipped[f"groups with a pass rate below {self.config.min_pass_rate:g}"] += 1
            return
        if pass_rate > self.config.max_pass_rate:
            self.skipped[f"groups with a pass rate above {self.config.max_pass_rate:g}"] += 1
            return
        task = {**_task_fields([example.row for example in group]), **_task_ids(group[0])}
        subject = Example({**task, "input": group[0].row.get("input")}, self._form)
        if obstacle := self.layout.obstacle(subject):
            self.skipped[f"groups with {obstacle}"] += 1
            return
        self.notes.update(self.layout.notes_on(subject))
        columns = {
            "prompt": prompt,
            "mean_reward": stats.mean,
            "reward_variance": stats.sd**2,
            "pass_rate": pass_rate,
            "num_rollouts": len(scores),
            "valid": valid,
            **({"images": group[0].images} if group[0].images else {}),
        }
        yield exported_row(task, columns), prompt


class Atif(ExportFormat):
    """Trajectories in ATIF, one for each rollout, without filters: also those that no trainer can take."""

    needs_score = False

    def __init__(self, config: ExportConfig) -> None:
        super().__init__(config)
        self._session_id = base_name(Path(config.input_jsonl_fpath))
        self._lost = Lost()
        self._masked = 0

    def _examples(self, group: list[Example]) -> ExportRows:
        for number, example in enumerate(group):
            # A row without a key has its place in the file instead.
            key = key_of(example.row) or (self.groups - 1, number)
            trajectory = trajectory_of(example.row, Identity(self._session_id, *key), self._lost)
            if trajectory is None:
                self.skipped["neither a prompt nor an answer"] += 1
            else:
                self._masked += example.is_masked
                yield trajectory, example.prompt

    def summary_lines(self) -> Iterator[str]:
        if self._masked:
            yield f"Masked rollouts among them: {self._masked}"
        for kind, number in self._in_extra_alone().items():
            yield f"In extra alone: {number} {kind}"

    def statistics(self) -> Json:
        return {"in_extra_alone": self._in_extra_alone(), "masked": self._masked}

    def _in_extra_alone(self) -> dict[str, int]:
        return {kind: number for kind, number in self._lost.most_common() if number}


class _Deduplicator:
    """Skips repeated answers to a prompt, if `dedupe` is set."""

    def __init__(self, config: ExportConfig) -> None:
        self._dedupe = config.dedupe
        self._seen: set[bytes] = set()

    def unique(self, examples: Iterator[Scored] | list[Scored], skipped: Skipped) -> Iterator[Scored]:
        """The first example of each digest; the others are counted in `skipped`."""
        for example, score in examples:
            if self._dedupe:
                digest = example.digest(self._dedupe)
                if digest in self._seen:
                    skipped["duplicates"] += 1
                    continue
                self._seen.add(digest)
            yield example, score


def _task_ids(example: Example) -> Json:
    """The identifiers of the task that the row has."""
    return {name: example.row[name] for name in ("prompt_id", "_ng_task_index") if name in example.row}


def _task_fields(group: list[Json]) -> Json:
    """The fields of the task: those that all rollouts of a group agree on, without those of a rollout."""
    common = _common_fields(group)
    params = [row.get("responses_create_params") for row in group]
    # sampling parameters are compared one by one: rollouts may differ in their seed
    if all(isinstance(each, dict) for each in params):
        common["responses_create_params"] = _common_fields([each for each in params if each])
    own = common.get(TASK_FIELDS)
    if isinstance(own, dict):
        return {**own, **{name: common[name] for name in ("responses_create_params", "agent_ref") if name in common}}
    return {name: value for name, value in common.items() if name not in _ROLLOUT_FIELDS and not name.startswith("_")}


def _common_fields(objects: list[Json]) -> Json:
    """The fields that all objects have with the same value."""
    first, *others = objects
    return {
        name: value for name, value in first.items() if all(name in each and each[name] == value for each in others)
    }
