"""Tools from a Python module."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ran, assert_rejected_before_sending, read_rows
from tests.servers import Served

ServeModel = Callable[..., Served]
CollectSums = Callable[..., Ran]


@pytest.mark.parametrize("tool", [True, "garbled"], ids=["valid arguments", "invalid arguments"])
def test_functions_of_a_module_become_tools(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path, tool: Any
) -> None:
    """The model gets each function with its signature as a schema, and an error as the output of an invalid call."""
    (tmp_path / "my_tools.py").write_text(
        'async def shout(text: str, times: int = 1) -> str:\n    """Say it loud."""\n    return text.upper() * times\n'
    )
    server = serve_model(tool=tool)
    ran = collect_sums(server.url, "+verifier=exact_match", "+tools=my_tools.py")
    assert ran.code == 0, ran.stderr
    assert ran.averages["reward"] == 1.0
    row = read_rows(tmp_path / "rollouts.jsonl")[2]
    output = row["response"]["output"][1]["output"]
    assert output == "WHAT IS 2 + 4?" if tool is True else "error" in json.loads(output)
    described = server.stats()["last"][-1]["tools"][0]
    assert described["parameters"]["properties"] == {"text": {"type": "string"}, "times": {"type": "integer"}}
    assert described["parameters"]["required"] == ["text"]


def test_module_of_tools_that_cannot_be_imported_is_rejected(
    serve_model: ServeModel, collect_sums: CollectSums
) -> None:
    """A module of tools that does not exist is a configuration error, before any request."""
    server = serve_model()
    assert_rejected_before_sending(
        collect_sums(server.url, "+tools=nowhere.py"), server, "nowhere.py cannot be imported"
    )
