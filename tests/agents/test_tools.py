"""Tools from a Python module."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.agents.tools import PythonTools
from ng_rollouts.errors import ConfigError
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


def test_wrapped_functions_are_offered_and_variable_parameters_are_left_out(tmp_path: Path) -> None:
    """A cached function is a tool as any other; `*args` and `**kwargs` are no parameters that the model has to give."""
    (tmp_path / "wrapped.py").write_text(
        "import functools\n"
        "@functools.lru_cache\n"
        "def find(q: str, n: int = 1) -> str:\n"
        '    """Find it."""\n'
        "    return q * n\n"
        "def free(a: int, *rest: int, **more: str) -> dict:\n"
        "    return {'a': a, **more}\n"
    )
    tools = PythonTools(str(tmp_path / "wrapped.py"))
    find, free = tools.definitions
    assert (find["name"], find["description"], find["parameters"]["required"]) == ("find", "Find it.", ["q"])
    assert find["parameters"]["properties"] == {"q": {"type": "string"}, "n": {"type": "integer"}}
    assert free["parameters"]["properties"] == {"a": {"type": "integer"}}
    assert (find["parameters"]["additionalProperties"], free["parameters"]["additionalProperties"]) == (False, True)
    assert asyncio.run(tools.call("find", {"q": "x", "n": 2})) == "xx"
    assert asyncio.run(tools.call("free", {"a": 1, "b": "c"})) == '{"a":1,"b":"c"}'


@pytest.mark.parametrize(
    ("signature", "message"),
    [("a: int, /", "cannot be given by name"), ("a: Unknown", "the type hints of f cannot be read")],
)
def test_function_that_cannot_be_described_is_rejected(tmp_path: Path, signature: str, message: str) -> None:
    """The model gives arguments by name, and their types come from the hints."""
    (tmp_path / "odd.py").write_text(f"from __future__ import annotations\ndef f({signature}):\n    return a\n")
    with pytest.raises(ConfigError, match=message):
        PythonTools(str(tmp_path / "odd.py"))
