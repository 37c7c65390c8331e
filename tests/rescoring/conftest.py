"""The command that scores rollouts again, files of rollouts, and a resources server that verifies answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ran
from tests.example_runs import collect_examples
from tests.rollout_files import rollout_row, write_rows
from tests.servers import serve_connections

Rescore = Callable[..., Ran]


@pytest.fixture
def rescore(command: Callable[..., Ran]) -> Rescore:
    """Score `rollouts.jsonl`, or another file, again into `new.jsonl`."""

    def run(*arguments: str, source: str = "rollouts.jsonl", output: str = "new.jsonl") -> Ran:
        files = [f"+rollouts_jsonl_fpath={source}", f"+output_jsonl_fpath={output}"]
        return command(*files, *arguments, script="ng_rescore_rollouts")

    return run


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of the example agent: 6 tasks with 3 rollouts each."""
    output = tmp_path_factory.mktemp("examples") / "rollouts.jsonl"
    return collect_examples(output, "+limit=6", "+num_repeats=3", "+responses_create_params.temperature=1")


def sum_rows(tasks: int, repeats: int = 1, **fields: Any) -> list[dict[str, Any]]:
    """Rows of the rollouts of sums: even tasks have the right answer, and all had a reward of 0.5."""
    return [
        rollout_row(
            task,
            index,
            0.5,
            f"The answer is {3 * task + task % 2}.",
            expected_answer=str(3 * task),
            agent_ref={"name": "a"},
            **fields,
        )
        for task in range(tasks)
        for index in range(repeats)
    ]


@pytest.fixture
def sums_file(tmp_path: Path) -> Path:
    """The file `rollouts.jsonl` with `sum_rows(4)`."""
    return write_rows(tmp_path / "rollouts.jsonl", sum_rows(4))


@pytest.fixture
def resources() -> Iterator[Callable[..., str]]:
    """Start resources servers: `mode` is what `/reverify_mode` says; `/verify` gives 1 if the answer has a `6`."""
    with_exit: list[Any] = []

    def start(mode: object = None, status: int = 200) -> str:
        manager = serve_connections(_handler(mode, status))
        port = manager.__enter__()
        with_exit.append(manager)
        return f"http://127.0.0.1:{port}"

    yield start
    for manager in with_exit:
        manager.__exit__(None, None, None)


def _handler(mode: object, status: int) -> Any:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            path = head.split(b" ")[1].decode()
            lengths = [line[16:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
            body = await reader.readexactly(int(lengths[0]) if lengths else 0)
            code, reply = _reply(path, body, mode, status)
            data = json.dumps(reply).encode()
            writer.write(f"HTTP/1.1 {code} X\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
            await writer.drain()

    return handle


def _reply(path: str, body: bytes, mode: object, status: int) -> tuple[int, Any]:
    if path == "/reverify_mode" and mode is not None:
        return 200, {"mode": mode}
    if path == "/verify":
        row = json.loads(body)
        text = row["response"]["output"][0]["content"][0]["text"]
        return status, {**row, "reward": float("6" in text), "seen": sorted(row)}
    return 404, {"detail": "Not Found"}
