"""Answers with known grades: one JSON object a line, in one file per verifier.

`answer` is the model's text (for `judge`, the judge's), `row` has the task's fields, `reward` or `failure` is the right
grade, `extracted` the right extracted answer where it matters, and `kind` says in a word what the case is about.
`majority.jsonl` has `answers`, all rollouts of one task, whose `verifier` grades them; `reward` is `majority@k`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def cases_of(verifier: str) -> list[Any]:
    """The cases of one verifier."""
    lines = Path(__file__).with_name(f"{verifier}.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]
