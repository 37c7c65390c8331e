"""Small inputs, and the rollouts that they expand to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.routes import Routes
from ng_rollouts.inputs.task_file import TaskFile
from ng_rollouts.inputs.task_parser import TaskParser
from ng_rollouts.types import Rollout

PLAIN = {"responses_create_params": {"input": "hi"}}


def parser_of(agent: str | None = "a", repeats: Any = 1, **options: Any) -> TaskParser:
    """A parser whose rows are all answered by one agent, or by those that they name."""
    agent_map = {"_default": agent} if agent else {}
    return TaskParser(routes=Routes(agent_map=agent_map, repeats=repeats), **options)


PARSER = parser_of()


def written(folder: Path, text: str | bytes) -> Path:
    """A new input file with this text."""
    path = folder / "tasks.jsonl"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lines(rows: list[Any]) -> str:
    """The rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def expanded(path: Path, parser: TaskParser = PARSER, limit: int | None = None) -> tuple[Plan, list[Rollout]]:
    """The plan of an input file, and its rollouts."""
    file = TaskFile(path=path, parser=parser, limit=limit)
    plan = file.plan()
    return plan, list(file.rollouts(plan))
