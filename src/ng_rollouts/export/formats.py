"""The recipes: a group of rows -> rows to train on, and what there is to tell of them at the end."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import combinations, islice

from ng_rollouts.errors import InputError
from ng_rollouts.export.config import ExportConfig
from ng_rollouts.export.example import Example, Skipped, usable
from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.types import Json

Scored = tuple[Example, float]
ExportRow = Iterator[tuple[Json, list[Json]]]
"""Rows, and the prompt of each."""

_NEARLY = 1e-9
"""1.0 - 0.8 is a gap of 0.2."""

_OF_A_ROLLOUT = frozenset({"response", "output", "input", "reward", "accuracy", "extracted_answer"})


class ExportFormat(ABC):
    """Takes groups one at a time, and counts what it leaves out."""

    def __init__(self, config: ExportConfig) -> None:
        self.config = config
        self.skipped = Skipped()
        self.groups = 0
        self.scores: set[str] = set()

    def rows(self, group: list[Json]) -> ExportRow:
        """What a group comes to.

        Raises:
            InputError: its rows, together by position, ask different things.
        """
        self.groups += 1
        examples = [Example(row, self.config.keep_reasoning) for row in group]
        for example in examples:
            self.scores |= example.stats.scores.keys()
        return self._examples(examples)

    @abstractmethod
    def _examples(self, group: list[Example]) -> ExportRow: ...

    def _of_one_prompt(self, group: list[Example]) -> list[Example]:
        """Those that ask what the first asks: only they can be held against each other."""
        alike = [example for example in group if example.prompt == group[0].prompt]
        if len(alike) < len(group) and self.config.group_by == "position":
            raise InputError(f"rows of group {self.groups} ask different things: is num_repeats={len(group)} right?")
        self.skipped["another prompt than the first of their group"] += len(group) - len(alike)
        return alike

    def summary_lines(self) -> Iterator[str]:
        """Lines for the terminal."""
        yield from ()

    def statistics(self) -> Json:
        """The same as numbers."""
        return {}


class Sft(ExportFormat):
    """Whole conversations to imitate."""

    def __init__(self, config: ExportConfig) -> None:
        super().__init__(config)
        self._once = _Once(config)

    def _examples(self, group: list[Example]) -> ExportRow:
        group = self._of_one_prompt(group) if self.config.best_of_group else group
        found = list(usable(group, self.config, self.skipped))
        if self.config.best_of_group and found:
            self.skipped["not the best of their group"] += len(found) - 1
            found = [max(found, key=lambda pair: pair[1])]
        for example, score in self._once.of(found, self.skipped):
            messages = [*example.prompt, *example.completion]
            row = {"messages": messages, **example.tools, **_named(example), self.config.score: score}
            yield row, example.prompt


class Kto(ExportFormat):
    """Completions with a verdict each."""

    def __init__(self, config: ExportConfig) -> None:
        super().__init__(config)
        self._once = _Once(config)
        self._desirable = self._undesirable = 0

    def _examples(self, group: list[Example]) -> ExportRow:
        for example, score in self._once.of(usable(group, self.config, self.skipped), self.skipped):
            label = score >= self.config.threshold
            self._desirable, self._undesirable = self._desirable + label, self._undesirable + (not label)
            said = {"prompt": example.prompt, "completion": example.completion, "label": label}
            yield {**said, **example.tools, **_named(example), self.config.score: score}, example.prompt

    def summary_lines(self) -> Iterator[str]:
        yield f"Desirable: {self._desirable}, undesirable: {self._undesirable}"

    def statistics(self) -> Json:
        return {"desirable": self._desirable, "undesirable": self._undesirable}


class Dpo(ExportFormat):
    """Pairs of which one completion is better."""

    def __init__(self, config: ExportConfig) -> None:
        super().__init__(config)
        self._rng = random.Random(config.seed)  # noqa: S311 - which pairs, not secrets
        self._moments = {"chosen": RunningStats(), "rejected": RunningStats(), "gap": RunningStats()}
        self._paired = 0

    def _examples(self, group: list[Example]) -> ExportRow:
        alike = self._of_one_prompt(group)
        found = sorted(usable(alike, self.config, self.skipped), key=lambda pair: pair[1], reverse=True)
        if len(found) < 2:
            self.skipped["groups with fewer than two rollouts left"] += 1
            return
        pairs = self._pairs(found)
        if not pairs:
            same = all(example.completion == found[0][0].completion for example, _ in found)
            gap = f"no gap of {self.config.min_reward_gap:g}"
            self.skipped[f"groups with {'only one answer' if same else gap}"] += 1
        self._paired += bool(pairs)
        for (chosen, higher), (rejected, lower) in pairs:
            for name, value in (("chosen", higher), ("rejected", lower), ("gap", higher - lower)):
                self._moments[name].add(value)
            row = {
                "prompt": chosen.prompt,
                "chosen": chosen.completion,
                "rejected": rejected.completion,
                **chosen.tools,
                **_named(chosen),
                "reward_chosen": higher,
                "reward_rejected": lower,
                "reward_gap": higher - lower,
            }
            yield row, chosen.prompt

    def _pairs(self, found: list[Scored]) -> list[tuple[Scored, Scored]]:
        """Of rollouts from the best to the worst."""
        if self.config.pairing in ("all", "random"):
            candidates = list(combinations(found, 2))
        else:
            others = found[1:] if self.config.pairing == "best_second" else found[:0:-1]
            differing = (other for other in others if other[0].completion != found[0][0].completion)
            candidates = [(found[0], other) for other in islice(differing, 1)]
        fit = [pair for pair in candidates if self._is_fit(*pair)]
        return [self._rng.choice(fit)] if fit and self.config.pairing == "random" else fit

    def _is_fit(self, better: Scored, worse: Scored) -> bool:
        gap = better[1] - worse[1]
        return gap > 0 and gap >= self.config.min_reward_gap - _NEARLY and better[0].completion != worse[0].completion

    def summary_lines(self) -> Iterator[str]:
        """The statistics of the pairs, as people know them from NeMo Gym's guides."""
        count = self._moments["gap"].count
        yield f"Created {count} preference pairs from {self.groups} groups"
        yield f"Pair creation rate: {100 * self._paired / self.groups if self.groups else 0:.1f}%"
        for name, moments in self._moments.items():
            if count:
                yield f"{name.capitalize() + ':':<9} μ={moments.mean:.3f}, σ={moments.sd:.3f}"

    def statistics(self) -> Json:
        spread = {
            f"reward_{name}": {"mean": each.mean, "sd": each.sd} for name, each in self._moments.items() if each.count
        }
        rate = self._paired / self.groups if self.groups else 0.0
        return {"pairs": self._moments["gap"].count, "pair_creation_rate": rate, **spread}


class Rl(ExportFormat):
    """Prompts with what their group says of their difficulty, ready to be collected from again."""

    def _examples(self, group: list[Example]) -> ExportRow:
        group = self._of_one_prompt(group)
        scored = [example.stats.scores.get(self.config.score) for example in group]
        scores = [score for score in scored if score is not None]
        self.skipped[f"no {self.config.score}"] += len(group) - len(scores)
        if not scores or not (prompt := group[0].prompt):
            self.skipped["groups without a prompt or a score"] += 1
            return
        moments = RunningStats.of(scores)
        rate = sum(score >= self.config.threshold for score in scores) / len(scores)
        if not self.config.min_pass_rate <= rate <= self.config.max_pass_rate:
            self.skipped[f"groups {'harder' if rate < self.config.min_pass_rate else 'easier'} than asked for"] += 1
            return
        row = {
            **_common_to([example.row for example in group]),
            "prompt": prompt,
            **_named(group[0]),
            "mean_reward": moments.mean,
            "reward_variance": moments.sd**2,
            "pass_rate": rate,
            "num_rollouts": len(scores),
        }
        yield row, prompt


RECIPES: dict[str, type[ExportFormat]] = {"sft": Sft, "dpo": Dpo, "kto": Kto, "rl": Rl}


class _Once:
    """Lets each answer to a prompt through once, if that is asked for."""

    def __init__(self, config: ExportConfig) -> None:
        self._dedupe = config.dedupe
        self._seen: set[bytes] = set()

    def of(self, found: Iterator[Scored] | list[Scored], skipped: Skipped) -> Iterator[Scored]:
        for example, score in found:
            if self._dedupe:
                digest = example.digest(self._dedupe)
                if digest in self._seen:
                    skipped["duplicates"] += 1
                    continue
                self._seen.add(digest)
            yield example, score


def _named(example: Example) -> Json:
    """What names the task, where the row says."""
    return {name: example.row[name] for name in ("prompt_id", "_ng_task_index") if name in example.row}


def _common_to(group: list[Json]) -> Json:
    """The fields that all rollouts of a task agree on: those of the task."""
    common = _agreed(group)
    params = [row.get("responses_create_params") for row in group]
    if all(isinstance(each, dict) for each in params):
        common["responses_create_params"] = _agreed([each for each in params if each])
    return {name: value for name, value in common.items() if name not in _OF_A_ROLLOUT and not name.startswith("_")}


def _agreed(objects: list[Json]) -> Json:
    first, *others = objects
    return {
        name: value for name, value in first.items() if all(name in each and each[name] == value for each in others)
    }
