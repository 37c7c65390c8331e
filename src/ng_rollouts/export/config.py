"""The parameters of `ng_export_rollouts`, and which recipe each is for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from ng_rollouts.errors import ConfigError
from ng_rollouts.outputs.reader import GROUPINGS

RECIPES = ("sft", "dpo", "kto", "rl")
PAIRINGS = ("best_worst", "best_second", "all", "random")
DEDUPES = ("exact", "normalised")

_ONLY_FOR = {
    "best_of_group": {"sft"},
    "dedupe": {"sft", "kto"},
    "pairing": {"dpo"},
    "min_reward_gap": {"dpo"},
    "threshold": {"kto", "rl"},
    "min_pass_rate": {"rl"},
    "max_pass_rate": {"rl"},
    **{
        name: {"sft", "dpo", "kto"}
        for name in (
            "min_reward keep_reasoning keep_truncated min_characters max_characters min_tokens max_tokens min_turns "
            "max_turns"
        ).split()
    },
}
_BOUNDS = ("characters", "tokens", "turns")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Rollouts -> rows to train on: recipe=sft (messages), dpo (pairs), kto (labels), rl (prompts by difficulty)."""

    recipe: str = field(metadata={"help": "sft, dpo, kto or rl. Required."})
    input_jsonl_fpath: str = field(metadata={"help": "A file of rollouts, ours or NeMo Gym's. Required."})
    output_jsonl_fpath: str = field(metadata={"help": "Where the rows go. Required."})
    score: str = field(default="reward", metadata={"help": "The score that all of this goes by."})
    min_reward: float | None = field(default=None, metadata={"help": "sft, dpo, kto: only rollouts of at least this."})
    best_of_group: bool = field(default=False, metadata={"help": "sft: only the best rollout of each task."})
    dedupe: str | None = field(
        default=None,
        metadata={"help": "sft, kto: exact or normalised (case, white space): one of each answer to a prompt."},
    )
    pairing: str = field(
        default="best_worst", metadata={"help": "dpo: best_worst, best_second, all or random, of each task."}
    )
    min_reward_gap: float = field(
        default=0.15, metadata={"help": "dpo: chosen is better than rejected by at least this."}
    )
    threshold: float = field(default=0.5, metadata={"help": "kto: desirable from here on; rl: passed from here on."})
    min_pass_rate: float = field(default=0.0, metadata={"help": "rl: only tasks that pass at least so often."})
    max_pass_rate: float = field(default=1.0, metadata={"help": "rl: only tasks that pass at most so often."})
    min_characters: int | None = field(default=None, metadata={"help": "Least characters of what the assistant wrote."})
    max_characters: int | None = field(default=None, metadata={"help": "Most of them."})
    min_tokens: int | None = field(default=None, metadata={"help": "Least output tokens, by the response's usage."})
    max_tokens: int | None = field(default=None, metadata={"help": "Most of them."})
    min_turns: int | None = field(default=None, metadata={"help": "Least messages of the assistant."})
    max_turns: int | None = field(default=None, metadata={"help": "Most of them."})
    keep_reasoning: bool = field(default=True, metadata={"help": "Keep reasoning_content in messages."})
    keep_truncated: bool = field(default=False, metadata={"help": "Keep responses that are cut off."})
    group_by: str = field(
        default="auto",
        metadata={"help": f"What makes a task: {', '.join(GROUPINGS)}. auto: task index, else prompt_id, else input."},
    )
    num_repeats: int | None = field(default=None, metadata={"help": "Rows of a task, with group_by=position."})
    shuffle: bool = field(default=False, metadata={"help": "Shuffle the rows."})
    validation_fraction: float = field(
        default=0.0, metadata={"help": "Share of the tasks that goes to <stem>_validation.jsonl instead."}
    )
    seed: int = field(default=0, metadata={"help": "Of shuffling, splitting and random pairs."})
    overwrite: bool = field(default=False, metadata={"help": "Replace existing outputs instead of moving them aside."})

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("recipe", self.recipe, RECIPES),
            ("pairing", self.pairing, PAIRINGS),
            ("dedupe", self.dedupe, (None, *DEDUPES)),
            ("group_by", self.group_by, GROUPINGS),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(filter(None, allowed))}, got {value!r}")
        self._check_finite()
        self._check_recipe()
        for name in ("min_pass_rate", "max_pass_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be from 0 to 1, got {getattr(self, name):g}")
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(f"validation_fraction must be from 0 to less than 1, got {self.validation_fraction:g}")
        if not self.min_reward_gap >= 0:
            raise ConfigError(f"min_reward_gap must be >= 0, got {self.min_reward_gap:g}")
        if (self.group_by == "position") != (self.num_repeats is not None):
            raise ConfigError("group_by=position and num_repeats go together: +group_by=position +num_repeats=4")
        if self.num_repeats is not None and self.num_repeats < 1:
            raise ConfigError(f"num_repeats must be >= 1, got {self.num_repeats}")

    def _check_finite(self) -> None:
        for each in fields(self):
            if isinstance(value := getattr(self, each.name), float) and not math.isfinite(value):
                raise ConfigError(f"{each.name} must be a finite number, got {value}")

    def _check_recipe(self) -> None:
        for each in fields(self):
            recipes = _ONLY_FOR.get(each.name)
            if recipes and self.recipe not in recipes and getattr(self, each.name) != each.default:
                raise ConfigError(f"{each.name} is for recipe={' or '.join(sorted(recipes))}, not {self.recipe}")
        for what in (*_BOUNDS, "pass_rate"):
            least, most = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if least is not None and most is not None and least > most:
                raise ConfigError(f"min_{what}={least:g} is more than max_{what}={most:g}")

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Least and most characters, tokens, turns, where one of them is given."""
        found = {}
        for what in _BOUNDS:
            least, most = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if least is not None or most is not None:
                found[what] = (0 if least is None else least, float("inf") if most is None else most)
        return found
