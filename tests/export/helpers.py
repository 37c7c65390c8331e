"""Helpers of the tests of exports: groups of rollouts, and their export by a recipe."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ng_rollouts.export.config import ExportConfig
from ng_rollouts.export.recipes import RECIPES
from tests.rollout_files import rollout_row


def rollout_groups(groups: list[list[float]]) -> list[list[dict[str, Any]]]:
    """A group of rollouts for each list of rewards."""
    return [
        [rollout_row(task, index, reward) for index, reward in enumerate(rewards)]
        for task, rewards in enumerate(groups)
    ]


def export_groups(groups: list[list[dict[str, Any]]], recipe: str, **parameters: Any) -> tuple[list[Any], Counter[str]]:
    """The rows that a recipe makes of groups, and the number of skipped rollouts or groups by reason."""
    output = "o.parquet" if parameters.get("format") == "verl" else "o.jsonl"
    config = ExportConfig(recipe=recipe, input_jsonl_fpath="i", output_jsonl_fpath=output, **parameters)
    export_format = RECIPES[recipe](config)
    return [row for group in groups for row, _ in export_format.rows(group)], export_format.skipped
