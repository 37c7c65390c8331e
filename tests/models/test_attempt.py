"""What all requests of an attempt share: the header of its session, and the count of its tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts.models.attempt import AttemptTokens, count_tokens, count_tokens_of_task, count_unusable, count_usage
from ng_rollouts.types import Tokens
from tests.conftest import FILES, RESUME, Ran
from tests.servers import Served

ServeModel = Callable[..., Served]
CollectSums = Callable[..., Ran]


def sessions(server: Served, header: str = "x-session-id") -> list[str | None]:
    """The values of the header in the requests that a server received, without those for models and agents."""
    return [fields.get(header) for fields in server.stats()["headers"] if int(fields.get("content-length", 0))]


def test_turns_of_a_rollout_and_its_judge_have_one_session(
    serve_model: ServeModel, collect_sums: CollectSums, tmp_path: Path
) -> None:
    """Each rollout has its own value, which ends in its key, and a run of the same output has the same values."""
    (tmp_path / "my_tools.py").write_text("def shout(text: str):\n    return text\n")
    model, judge = serve_model(tool=True), serve_model(models=["judge"], text="VERDICT: CORRECT")
    run = ["+tools=my_tools.py", "+verifier=judge", f"+verifier.base_url={judge.url}/v1", "+num_repeats=2"]
    assert collect_sums(model.url, *run, rows=2).code == 0
    first = sessions(model)
    assert len(first) == 8
    by_end = {str(value).partition("-")[2]: first.count(value) for value in first}
    assert by_end == {"0-0": 2, "0-1": 2, "1-0": 2, "1-1": 2}
    assert set(sessions(judge)) == set(first)
    assert collect_sums(model.url, *run, "+overwrite=true", rows=2).code == 0
    assert set(sessions(model)) == set(first)


def test_rollouts_of_a_task_share_a_session_under_the_name_of_a_router(
    serve_model: ServeModel, collect_sums: CollectSums
) -> None:
    """`session_by=task` has one value for all rollouts of a task; `session_header` names the header, null none."""
    server = serve_model()
    run = ["+verifier=none", "+num_repeats=3", "+session_by=task", "+session_header=X-SMG-Routing-Key"]
    assert collect_sums(server.url, *run, rows=2).code == 0
    found = sessions(server, "x-smg-routing-key")
    assert (len(found), len(set(found)), None in found) == (6, 2, False)
    assert set(sessions(server)) == {None}
    other = serve_model()
    assert collect_sums(other.url, "+verifier=none", "+session_header=null", "+overwrite=true", rows=2).code == 0
    assert set(sessions(other)) == {None}


def test_agent_servers_get_the_header(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path]
) -> None:
    """A router before agent servers can use it, too; a resume sends the same."""
    server = serve()
    tasks(2)
    assert command(*FILES, f"+agent_url={server.url}").code == 0
    first = sessions(server)
    assert [str(each)[8:] for each in sorted(map(str, first))] == ["-0-0", "-1-0"]
    tasks(3)
    assert command(*FILES, f"+agent_url={server.url}", RESUME).code == 0
    assert {str(each)[:8] for each in sessions(server)} == {str(first[0])[:8]}


@pytest.mark.parametrize("name", ["a b", "Authorization", "content-length", "x:y"])
def test_name_that_is_not_one_of_a_new_header_is_an_error(
    name: str, command: Callable[..., Ran], tasks: Callable[..., Path]
) -> None:
    """It could not be sent, or would replace a header that the request needs."""
    tasks(1)
    ran = command(*FILES, "+agent_url=http://127.0.0.1:9", f"+session_header={name}")
    assert (ran.code, "session_header=" in ran.stderr) == (2, True)


def test_tokens_count_for_the_attempt_that_uses_them() -> None:
    """Tasks that an attempt creates count for it, attempts at the same time do not mix, and odd usages count as 0."""

    async def attempt(number: int) -> AttemptTokens:
        tokens = count_tokens_of_task()
        for usage in ({"input_tokens": number, "output_tokens": 1}, None, {"input_tokens": -5, "output_tokens": "x"}):
            await asyncio.create_task(answer(usage))
        count_usage({"input_tokens": 7}, is_judge=True)
        count_unusable({"input_tokens": 3})
        count_tokens(AttemptTokens(Tokens(1, 1), Tokens(0, 2), Tokens(0, 4)))
        return tokens

    async def answer(usage: Any) -> None:
        await asyncio.sleep(0)
        count_usage(usage)

    async def both() -> list[AttemptTokens]:
        return list(await asyncio.gather(attempt(10), attempt(20)))

    count_unusable({"input_tokens": 1})
    count_usage({"input_tokens": 1})  # outside of an attempt, nothing counts it
    assert asyncio.run(both()) == [
        AttemptTokens(Tokens(11, 2), Tokens(7, 2), Tokens(3, 4)),
        AttemptTokens(Tokens(21, 2), Tokens(7, 2), Tokens(3, 4)),
    ]
