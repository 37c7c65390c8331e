"""How each trainer takes the rows of each recipe: their form, and what it has no place for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ng_rollouts.export import obstacles as hard
from ng_rollouts.export import trainer_rows as rows
from ng_rollouts.export.config import ExportConfig
from ng_rollouts.export.example import Example
from ng_rollouts.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a trainer takes the rows of a recipe.

    Attributes:
        trainer: its name in messages.
        convert: makes the trainer's row from that of the recipe.
        obstacles: what it has no place for.
        notes: what the user has to give it beside the rows, and whether an example needs that.
        columns: the columns of its Parquet files and their types; None for a trainer that reads JSON lines.
        info: the entry of each file in a companion file, without the file's name; None if it needs none.
    """

    trainer: str = ""
    convert: Callable[[Json], Json] = rows.unchanged
    obstacles: tuple[hard.Obstacle, ...] = ()
    notes: tuple[hard.Obstacle, ...] = ()
    columns: Any = None
    info: Json | None = None

    def obstacle(self, example: Example) -> str | None:
        """The first thing in an example that the trainer has no place for; None if it can take all of it."""
        for what, applies in self.obstacles:
            if applies(example):
                return f"{what}: {self.trainer} has no place for that"
        return None

    def notes_on(self, example: Example) -> Iterator[str]:
        """The things that the user has to give the trainer for this example."""
        return (note for note, applies in self.notes if applies(example))


def layout_of(config: ExportConfig) -> Layout:
    """The layout of the configured trainer; without one, rows stay as they are."""
    return _LAYOUTS[config.format, config.recipe] if config.format else Layout()


def _note(how: str) -> tuple[hard.Obstacle, ...]:
    return ((f"prompts with tools, which the rows do not offer: {how}", hard.TOOLS[1]),)


def _sharegpt_info(**more: Any) -> Json:
    columns = {"messages": "conversations", "tools": "tools", **more.pop("columns", {})}
    return {"formatting": "sharegpt", **more, "columns": columns}


_SHAREGPT = (
    hard.IMAGES,
    hard.in_conversation(
        "contents or fields beyond text", hard.beyond("reasoning_content", "tool_calls", "tool_call_id")
    ),
    hard.in_conversation("text beside tool calls", hard.has_text_beside_calls),
    hard.in_conversation("think tags beside reasoning", hard.has_ambiguous_reasoning),
    hard.in_conversation("tags such as <image> in a text", hard.has_tag),
    ("messages of user and assistant that do not alternate", hard.does_not_alternate),
)
_AXOLOTL_TEXT = (
    hard.IMAGES,
    hard.TOOLS,
    hard.SEVERAL_MESSAGES,
    hard.REASONING,
    hard.in_conversation("contents or fields beyond text", hard.beyond()),
)
_PLAIN_ANSWERS = (hard.IMAGES, hard.TOOLS, hard.SEVERAL_MESSAGES)

_LAYOUTS = {
    **{("trl", recipe): Layout(trainer="trl") for recipe in ("sft", "dpo", "kto")},
    ("trl", "rl"): Layout(
        trainer="trl",
        obstacles=hard.UNUSABLE_PROMPTS,
        notes=_note("give GRPOTrainer functions, as `tools`"),
    ),
    ("verl", "sft"): Layout(
        trainer="verl",
        convert=rows.verl_sft,
        columns=rows.VERL_SFT,
        obstacles=(
            hard.IMAGES,
            hard.TOOLS,
            # It renders each message alone, and templates of thinking models leave out the reasoning then.
            hard.REASONING,
            hard.in_conversation("contents or fields beyond text", hard.beyond()),
        ),
    ),
    ("verl", "rl"): Layout(
        trainer="verl",
        convert=rows.verl_rl,
        columns=rows.VERL_RL,
        obstacles=(
            *hard.UNUSABLE_PROMPTS,
            hard.NO_EXPECTED_ANSWER,
            hard.in_prompt("contents or fields beyond text", hard.beyond("reasoning_content")),
            hard.TAGS_BESIDE_IMAGES,
        ),
        notes=_note("define them in the file of `tool_config_path`"),
    ),
    ("nemo_rl", "sft"): Layout(trainer="nemo_rl", convert=rows.nemo_rl_sft),
    ("nemo_rl", "dpo"): Layout(trainer="nemo_rl", convert=rows.nemo_rl_dpo, obstacles=_PLAIN_ANSWERS),
    ("nemo_rl", "rl"): Layout(
        trainer="nemo_rl", obstacles=(("no request, or no agent with a name", hard.has_no_gym_task),)
    ),
    ("openrlhf", "sft"): Layout(trainer="openrlhf", convert=rows.openrlhf_sft, obstacles=_PLAIN_ANSWERS),
    ("openrlhf", "dpo"): Layout(trainer="openrlhf", obstacles=_PLAIN_ANSWERS),
    ("openrlhf", "rl"): Layout(
        trainer="openrlhf",
        convert=rows.openrlhf_rl,
        obstacles=(
            *hard.UNUSABLE_PROMPTS,
            hard.TOOLS,
            hard.NO_EXPECTED_ANSWER,
            hard.in_prompt("tags such as <image> in a text", hard.has_tag_in_string),
        ),
    ),
    ("llama_factory", "sft"): Layout(
        trainer="llama_factory", convert=rows.llama_factory_sft, obstacles=_SHAREGPT, info=_sharegpt_info()
    ),
    ("llama_factory", "dpo"): Layout(
        trainer="llama_factory",
        convert=rows.llama_factory_dpo,
        obstacles=(*_SHAREGPT, hard.SEVERAL_MESSAGES),
        info=_sharegpt_info(ranking=True, columns={"chosen": "chosen", "rejected": "rejected"}),
    ),
    ("llama_factory", "kto"): Layout(
        trainer="llama_factory",
        convert=rows.llama_factory_kto,
        obstacles=(*_SHAREGPT, hard.SEVERAL_MESSAGES),
        info=_sharegpt_info(columns={"kto_tag": "kto_tag"}),
    ),
    ("axolotl", "sft"): Layout(trainer="axolotl", convert=rows.axolotl_sft, obstacles=(hard.IMAGES_BESIDE_MORE,)),
    ("axolotl", "dpo"): Layout(trainer="axolotl", convert=rows.axolotl_dpo, obstacles=_AXOLOTL_TEXT),
    ("axolotl", "kto"): Layout(
        trainer="axolotl",
        convert=rows.axolotl_kto,
        obstacles=(*_AXOLOTL_TEXT, ("prompts of several turns", hard.has_several_turns)),
    ),
    ("axolotl", "rl"): Layout(
        trainer="axolotl",
        obstacles=hard.UNUSABLE_PROMPTS,
        notes=_note("the reward functions and rollouts of `trl:` have to provide them"),
    ),
}
