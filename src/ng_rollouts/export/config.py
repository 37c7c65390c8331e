"""The parameters of `ng_export_rollouts`, and the recipes that each applies to."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

from ng_rollouts.config.fields import REQUIRED, check_fields, param
from ng_rollouts.errors import ConfigError
from ng_rollouts.export.advantages import ADVANTAGES
from ng_rollouts.outputs.reader import GROUPINGS

RECIPES = ("sft", "dpo", "kto", "rl", "rl_tokens", "atif")
PAIRINGS = ("best_worst", "best_second", "all", "random")
DRIFTS = ("fork", "drop", "fail")
DEDUPES = ("exact", "normalised")

FORMATS = {
    "trl": ("sft", "dpo", "kto", "rl"),
    "verl": ("sft", "rl"),
    "nemo_rl": ("sft", "dpo", "rl"),
    "openrlhf": ("sft", "dpo", "rl"),
    "llama_factory": ("sft", "dpo", "kto"),
    "axolotl": ("sft", "dpo", "kto", "rl"),
}
"""The trainers, each with the recipes that it has a use for."""

_SUFFIXES = {"verl": (".parquet",), **dict.fromkeys(("nemo_rl", "openrlhf", "llama_factory", "axolotl"), (".jsonl",))}
"""The endings by which a trainer recognises its files; TRL's are the user's choice."""

_ONLY_FOR = {
    "best_of_group": {"sft"},
    "dedupe": {"sft", "kto"},
    "pairing": {"dpo"},
    "min_reward_gap": {"dpo"},
    "threshold": {"kto", "rl"},
    "min_pass_rate": {"rl"},
    "max_pass_rate": {"rl"},
    "advantage": {"rl_tokens"},
    "on_drift": {"rl_tokens"},
    "keep_truncated": {"sft", "dpo", "kto", "rl_tokens"},
    **{name: {"sft", "dpo", "kto", "rl", "rl_tokens"} for name in ("score", "min_valid_per_group")},
    **{name: {"sft", "dpo", "kto", "rl"} for name in ("tool_arguments", "developer_role")},
    **{
        name: {"sft", "dpo", "kto"}
        for name in (
            "min_reward keep_masked keep_reasoning min_characters max_characters min_tokens max_tokens "
            "min_turns max_turns"
        ).split()
    },
}
"""The recipes of each parameter that does not apply to all of them."""

_BOUNDS = ("characters", "tokens", "turns")
"""The sizes of a rollout that `min_` and `max_` parameters limit."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export training data: recipe=sft (messages), dpo (pairs), kto (labels), rl (prompts), rl_tokens or atif."""

    recipe: str = param(
        REQUIRED, "Format of the training data; rl_tokens: token ids; atif: trajectories.", choices=RECIPES
    )
    input_jsonl_fpath: str = param(REQUIRED, "Rollouts of this program or of NeMo Gym, or ATIF trajectories.")
    output_jsonl_fpath: str = param(REQUIRED, "File to write the training data to; rl_tokens: .parquet is Parquet.")
    format: str | None = param(None, "Trainer that reads the files; null: rows that fit TRL.", choices=tuple(FORMATS))
    score: str = param("reward", "Score that filters, pairs and labels are based on.")
    min_reward: float | None = param(None, "sft, dpo, kto: minimum score of a rollout.")
    best_of_group: bool = param(False, "sft: keep only the best rollout of each task.")
    dedupe: str | None = param(
        None, "sft, kto: drop repeated answers to a prompt; normalised ignores case and white space.", choices=DEDUPES
    )
    pairing: str = param("best_worst", "dpo: which rollouts of a task to pair.", choices=PAIRINGS)
    min_reward_gap: float = param(0.15, "dpo: minimum score difference of chosen and rejected.", minimum=0)
    threshold: float = param(0.5, "kto: minimum score of a desirable answer; rl: minimum score of a pass.")
    min_pass_rate: float = param(0.0, "rl: minimum share of passes of a task.", minimum=0, maximum=1)
    max_pass_rate: float = param(1.0, "rl: maximum share of passes of a task.", minimum=0, maximum=1)
    advantage: str = param(
        "grpo",
        "rl_tokens: a score relative to its group: by mean and standard deviation, or by the mean of the others.",
        choices=ADVANTAGES,
    )
    on_drift: str = param(
        "fork",
        "rl_tokens: where a turn does not begin with the tokens before it: new row, no rollout, or error.",
        choices=DRIFTS,
    )
    min_characters: int | None = param(None, "Minimum characters written by the assistant.")
    max_characters: int | None = param(None, "Maximum characters written by the assistant.")
    min_tokens: int | None = param(None, "Minimum output tokens, from the response's usage.")
    max_tokens: int | None = param(None, "Maximum output tokens.")
    min_turns: int | None = param(None, "Minimum messages of the assistant.")
    max_turns: int | None = param(None, "Maximum messages of the assistant.")
    keep_reasoning: bool = param(True, "Keep the reasoning in messages.")
    tool_arguments: str = param(
        "object", "Arguments of tool calls: as an object, or as JSON text.", choices=("object", "string")
    )
    developer_role: str = param(
        "system",
        "Messages of the role `developer`: as `system`, unchanged, or dropped.",
        choices=("system", "keep", "drop"),
    )
    keep_truncated: bool | None = param(None, "Keep truncated responses; null: rl_tokens keeps them, others do not.")
    keep_masked: bool = param(
        False, "sft, dpo, kto: keep rollouts whose result is not a measurement of the model (`mask_sample`)."
    )
    min_valid_per_group: int = param(0, "Leave out tasks with fewer rollouts that are not masked.", minimum=0)
    group_by: str = param(
        "auto",
        "Key that identifies a task; auto: task index if present, else prompt_id, else input.",
        choices=GROUPINGS,
    )
    num_repeats: int | None = param(None, "Rows per task, for group_by=position.", minimum=1)
    shuffle: bool = param(False, "Shuffle the rows.")
    validation_fraction: float = param(
        0.0, "Share of the prompts to write to <stem>_validation.jsonl instead.", minimum=0, below=1
    )
    seed: int = param(0, "Seed for shuffling, splitting and random pairs.")
    overwrite: bool = param(False, "Replace existing outputs. By default they are renamed to <output>.1, .2 and so on.")
    quiet: bool = param(False, "Print JSON alone to stdout, and errors alone to stderr.")

    def __post_init__(self) -> None:
        check_fields(self)
        self._check_finite()
        self._check_recipe()
        if is_parquet(self.output_jsonl_fpath) and self.recipe != "rl_tokens" and self.format is None:
            # In a column, all objects have the same fields: arguments of tool calls would get those of other calls.
            raise ConfigError(
                f"output_jsonl_fpath {self.output_jsonl_fpath}: Parquet is for recipe=rl_tokens, not {self.recipe}: "
                "use the extension .jsonl"
            )
        self._check_format()
        if (self.group_by == "position") != (self.num_repeats is not None):
            raise ConfigError("group_by=position and num_repeats go together: +group_by=position +num_repeats=4")

    def _check_finite(self) -> None:
        """Check that no number is infinite; `check_fields` rejects NaN."""
        for each in fields(self):
            if isinstance(value := getattr(self, each.name), float) and not math.isfinite(value):
                raise ConfigError(f"{each.name} must be a finite number, got {value}")

    def _check_recipe(self) -> None:
        """Check that every parameter that is set applies to the recipe, and that no minimum exceeds its maximum."""
        for each in fields(self):
            recipes = _ONLY_FOR.get(each.name)
            if recipes and self.recipe not in recipes and getattr(self, each.name) != each.default:
                raise ConfigError(f"{each.name} is for recipe={' or '.join(sorted(recipes))}, not {self.recipe}")
        for name in (*_BOUNDS, "pass_rate"):
            minimum, maximum = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if minimum is not None and maximum is not None and minimum > maximum:
                raise ConfigError(f"min_{name}={minimum:g} is more than max_{name}={maximum:g}")

    def _check_format(self) -> None:
        """Check that the trainer has the recipe, reads files of this name, and takes the arguments of tool calls."""
        if self.format is None:
            return
        if self.recipe not in FORMATS[self.format]:
            raise ConfigError(f"format={self.format} has recipe={' or '.join(FORMATS[self.format])}, not {self.recipe}")
        suffixes = _SUFFIXES.get(self.format)
        if suffixes and not self.output_jsonl_fpath.endswith(suffixes):
            wanted = f"name it {' or '.join(suffixes)}, not {self.output_jsonl_fpath}"
            raise ConfigError(f"format={self.format} reads a file by its ending: {wanted}")
        if self.format == "llama_factory" and self.tool_arguments != "object":
            raise ConfigError(
                "format=llama_factory writes the arguments of tool calls itself: leave tool_arguments out"
            )

    def bounds(self) -> dict[str, tuple[float, float]]:
        """The minimum and maximum of characters, tokens and turns; only of those with at least one of the two set."""
        bounds = {}
        for name in _BOUNDS:
            minimum, maximum = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if minimum is not None or maximum is not None:
                bounds[name] = (0 if minimum is None else minimum, float("inf") if maximum is None else maximum)
        return bounds


def is_parquet(name: str | Path) -> bool:
    """True for a name with the extension of Parquet, in any case."""
    return str(name).lower().endswith(".parquet")
