"""The recipes by name."""

from __future__ import annotations

from ng_rollouts.export.formats import Atif, Dpo, ExportFormat, Kto, Rl, Sft
from ng_rollouts.export.rl_tokens import RlTokens

RECIPES: dict[str, type[ExportFormat]] = {
    "sft": Sft,
    "dpo": Dpo,
    "kto": Kto,
    "rl": Rl,
    "rl_tokens": RlTokens,
    "atif": Atif,
}
