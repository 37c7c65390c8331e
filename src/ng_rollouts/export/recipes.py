"""The recipes: a group of rows -> rows to train on, and what there is to tell of them at the end."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import combinations

from ng_rollouts.export.config import ExportConfig
from ng_rollouts.export.examples import Drops, Example, usable
from ng_rollouts.moments import Moments
from ng_rollouts.records import Json

Scored = tuple[Example, float]
_OF_A_ROLLOUT = frozenset({"response", "output", "input", "reward", "accuracy", "extracted_answer"})


class Recipe(ABC):
    """Takes groups one at a time, and counts what it leaves out."""

    def __init__(self, config: ExportConfig) -> None:
        self.config = config
        self.drops = Drops()
        self.groups = 0

    def rows(self, group: list[Json]) -> Iterator[Json]:
        """What a group comes to."""
        self.groups += 1
        return self._made_of(group)

    @abstractmethod
    def _made_of(self, group: list[Json]) -> Iterator[Json]: ...

    def told(self) -> Iterator[str]:
        """Lines for the terminal."""
        yield from ()

    def figures(self) -> Json:
        """The same as numbers."""
        return {}


class Sft(Recipe):
    """Whole conversations to imitate."""

    def __init__(self, config: ExportConfig) -> None:
        super().__init__(config)
        self._once = _Once(config)

    def _made_of(self, group: list[Json]) -> Iterator[Json]:
        found = list(usable(group, self.config, self.drops))
        if self.config.best_of_group and found:
            self.drops["not the best of their group"] += len(found) - 1
            found = [max(found, key=lambda pair: pair[1])]
        for example, score in self._once.of(found, self.drops):
            messages = [*example.prompt, *example.completion]
            yield {"messages": messages, **example.tools, **_named(example), self.config.score: score}


class Kto(Recipe):
    """Completions with a verdict each."""

    def __init__(self, config: ExportConfig) -> None:
        super().__init__(config)
        self._once = _Once(config)
        self._desirable = self._undesirable = 0

    def _made_of(self, group: list[Json]) -> Iterator[Json]:
        for example, score in self._once.of(usable(group, self.config, self.drops), self.drops):
            label = score >= self.config.threshold
            self._desirable, self._undesirable = self._desirable + label, self._undesirable + (not label)
            said = {"prompt": example.prompt, "completion": example.completion, "label": label}
            yield {**said, **example.tools, **_named(example), self.config.score: score}

    def told(self) -> Iterator[str]:
        yield f"Desirable: {self._desirable}, undesirable: {self._undesirable}"

    def figures(self) -> Json:
        return {"desirable": self._desirable, "undesirable": self._undesirable}


class Dpo(Recipe):
    """Pairs of which one completion is better."""

    def __init__(self, config: ExportConfig) -> None:
        super().__init__(config)
        self._rng = random.Random(config.seed)  # noqa: S311 - which pairs, not secrets
        self._moments = {"chosen": Moments(), "rejected": Moments(), "gap": Moments()}
        self._paired = 0

    def _made_of(self, group: list[Json]) -> Iterator[Json]:
        found = sorted(usable(group, self.config, self.drops), key=lambda pair: pair[1], reverse=True)
        if len(found) < 2:
            self.drops["groups with fewer than two rollouts left"] += 1
            return
        pairs = self._pairs(found)
        if not pairs:
            self.drops[f"groups with no gap of {self.config.min_reward_gap:g}"] += 1
        self._paired += bool(pairs)
        for (chosen, higher), (rejected, lower) in pairs:
            for name, value in (("chosen", higher), ("rejected", lower), ("gap", higher - lower)):
                self._moments[name].add(value)
            yield {
                "prompt": chosen.prompt,
                "chosen": chosen.completion,
                "rejected": rejected.completion,
                **chosen.tools,
                **_named(chosen),
                "reward_chosen": higher,
                "reward_rejected": lower,
                "reward_gap": higher - lower,
            }

    def _pairs(self, found: list[Scored]) -> list[tuple[Scored, Scored]]:
        """Of rollouts from the best to the worst."""
        match self.config.pairing:
            case "best_worst":
                candidates = [(found[0], found[-1])]
            case "best_second":
                candidates = [(found[0], found[1])]
            case _:
                candidates = list(combinations(found, 2))
        fit = [pair for pair in candidates if self._is_fit(*pair)]
        return [self._rng.choice(fit)] if fit and self.config.pairing == "random" else fit

    def _is_fit(self, better: Scored, worse: Scored) -> bool:
        gap = better[1] - worse[1]
        return gap > 0 and gap >= self.config.min_reward_gap and better[0].completion != worse[0].completion

    def told(self) -> Iterator[str]:
        """The statistics of the pairs, as people know them from NeMo Gym's guides."""
        count = self._moments["gap"].count
        yield f"Created {count} preference pairs from {self.groups} groups"
        yield f"Pair creation rate: {100 * self._paired / self.groups if self.groups else 0:.1f}%"
        for name, moments in self._moments.items():
            if count:
                yield f"{name.capitalize() + ':':<9} μ={moments.mean:.3f}, σ={moments.sd:.3f}"

    def figures(self) -> Json:
        spread = {
            f"reward_{name}": {"mean": each.mean, "sd": each.sd} for name, each in self._moments.items() if each.count
        }
        rate = self._paired / self.groups if self.groups else 0.0
        return {"pairs": self._moments["gap"].count, "pair_creation_rate": rate, **spread}


class Rl(Recipe):
    """Prompts with what their group says of their difficulty, ready to be collected from again."""

    def _made_of(self, group: list[Json]) -> Iterator[Json]:
        scored = [(example, example.facts.scores.get(self.config.score)) for example in map(Example, group)]
        scores = [score for _, score in scored if score is not None]
        self.drops[f"no {self.config.score}"] += len(group) - len(scores)
        if not scores or not (prompt := scored[0][0].prompt):
            self.drops["groups without a prompt or a score"] += 1
            return
        moments = Moments.of(scores)
        rate = sum(score >= self.config.threshold for score in scores) / len(scores)
        if not self.config.min_pass_rate <= rate <= self.config.max_pass_rate:
            self.drops[f"groups {'harder' if rate < self.config.min_pass_rate else 'easier'} than asked for"] += 1
            return
        yield {
            **_common_to(group),
            "prompt": prompt,
            **_named(scored[0][0]),
            "mean_reward": moments.mean,
            "reward_variance": moments.sd**2,
            "pass_rate": rate,
            "num_rollouts": len(scores),
        }


RECIPES: dict[str, type[Recipe]] = {"sft": Sft, "dpo": Dpo, "kto": Kto, "rl": Rl}


class _Once:
    """Lets each answer to a prompt through once, if that is asked for."""

    def __init__(self, config: ExportConfig) -> None:
        self._dedupe = config.dedupe
        self._seen: set[bytes] = set()

    def of(self, found: Iterator[Scored] | list[Scored], drops: Drops) -> Iterator[Scored]:
        for example, score in found:
            if self._dedupe:
                digest = example.digest(self._dedupe)
                if digest in self._seen:
                    drops["duplicates"] += 1
                    continue
                self._seen.add(digest)
            yield example, score


def _named(example: Example) -> Json:
    """What names the task, where the row says."""
    return {name: example.row[name] for name in ("prompt_id", "_ng_task_index") if name in example.row}


def _common_to(group: list[Json]) -> Json:
    """The fields that all rollouts of a task agree on: those of the task."""
    first, *others = group
    return {
        name: value
        for name, value in first.items()
        if name not in _OF_A_ROLLOUT and not name.startswith("_") and all(row.get(name) == value for row in others)
    }
