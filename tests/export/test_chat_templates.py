"""Exported rows through the chat templates that TRL ships, as a trainer renders them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SHARED_DATA, Ran, read_rows

pytestmark = pytest.mark.extras

Command = Callable[..., Ran]

TEXT_ARGUMENTS = {"deepseekv3", "deepseekv3_training"}
"""Templates that concatenate the arguments of a call as text: they need `tool_arguments=string`."""

NO_ARGUMENTS = {"deepseek_r1_distill", "deepseek_r1_distill_training", "lfm2", "lfm2_training"}
"""Templates that leave the arguments of calls out."""


def templates() -> dict[str, str]:
    """The templates that render tool calls, by name. They are files of the package, which is not imported."""
    spec = importlib.util.find_spec("trl")
    folders = [Path(folder) / "chat_templates" for folder in (spec.submodule_search_locations or [])] if spec else []
    texts = {path.stem: path.read_text() for folder in folders for path in folder.glob("*.jinja")}
    return {name: text for name, text in texts.items() if "tool_calls" in text and name not in NO_ARGUMENTS}


@pytest.fixture
def rows(command: Command, tmp_path: Path) -> Callable[[str], list[Any]]:
    """Exported rows with tool calls, of the packaged tool agent and of NeMo Gym, with arguments of a form."""
    arguments = ("+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=own.jsonl", "+agent_name=example_tool_agent")
    tasks = [
        {"responses_create_params": {"input": f"What is {n} + 2?"}, "expected_answer": str(n + 2)} for n in range(5)
    ]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    assert command(*arguments).code == 0

    def exported(form: str) -> list[Any]:
        found = []
        for source in [tmp_path / "own.jsonl", *SHARED_DATA.glob("*/example_rollouts.jsonl")]:
            options = ("+recipe=sft", f"+tool_arguments={form}", "+overwrite=true")
            files = (f"+input_jsonl_fpath={source}", "+output_jsonl_fpath=out.jsonl")
            assert command(*options, *files, script="ng_export_rollouts").code == 0
            found += read_rows(tmp_path / "out.jsonl")
        return [row for row in found if any("tool_calls" in message for message in row["messages"])]

    return exported


def test_each_argument_is_rendered_once_and_unescaped(rows: Callable[[str], list[Any]]) -> None:
    """Every template that renders tool calls writes each argument of each call; none encodes the object twice."""
    from transformers.utils.chat_template_utils import render_jinja_template

    assert len(templates()) >= 20
    for name, template in templates().items():
        for row in rows("string" if name in TEXT_ARGUMENTS else "object"):
            tokens = {"bos_token": "", "eos_token": "", "pad_token": "", "unk_token": ""}
            rendered, _ = render_jinja_template([row["messages"]], tools=row["tools"], chat_template=template, **tokens)
            for message in row["messages"]:
                for call in message.get("tool_calls", []):
                    arguments = call["function"]["arguments"]
                    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
                    for value in arguments.values():
                        text = value if isinstance(value, str) else json.dumps(value)
                        assert text in rendered[0] or json.dumps(text)[1:-1] in rendered[0], (name, value)
                    twice = json.dumps(json.dumps(arguments))[1:-1]
                    assert not arguments or twice not in rendered[0], (name, twice)
