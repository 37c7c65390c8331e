"""The Python API: rows and groups while they are collected."""

from __future__ import annotations

import asyncio
import io
import json
import runpy
import sys
import traceback
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import ng_rollouts
from ng_rollouts import collect, collect_groups, read_groups
from ng_rollouts.errors import ConfigError, GateMissed, RolloutsFailed, StoppedEarly, UsageError
from tests.conftest import ROOT, keys_of, read_rows, wait_until
from tests.servers import Served

TASKS = ROOT / "examples" / "arithmetic.jsonl"
EXAMPLE: dict[str, Any] = {"agent_name": "example_math_agent", "input_jsonl_fpath": str(TASKS)}


def key(row: dict[str, Any]) -> tuple[int, int]:
    return row["_ng_task_index"], row["_ng_rollout_index"]


def test_collect_yields_every_row_of_the_output_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`collect` yields each row of the finished output once, and prints nothing."""
    output = tmp_path / "r.jsonl"

    async def run() -> list[Any]:
        return [row async for row in collect(**EXAMPLE, output_jsonl_fpath=str(output), limit=20, num_repeats=3)]

    rows = asyncio.run(run())
    assert sorted(rows, key=key) == read_rows(output)
    assert keys_of(output) == [(task, index) for task in range(20) for index in range(3)]
    assert capfd.readouterr() == ("", "")
    assert [len(group) for group in read_groups(output)] == [3] * 20


def test_collect_groups_yields_complete_groups_in_order(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """`collect_groups` yields complete groups with their rows in order; a task with a failed rollout yields none."""
    server = serve(delay=[0.0, 0.05], faults={"400": 0.1}, sticky=True)
    source, output = tasks(20), tmp_path / "r.jsonl"
    parameters: dict[str, Any] = {
        "agent_url": server.url,
        "input_jsonl_fpath": str(source),
        "output_jsonl_fpath": str(output),
    }

    async def run() -> list[list[Any]]:
        return [group async for group in collect_groups(**parameters, num_repeats=4, num_samples_in_parallel=16)]

    groups = asyncio.run(run())
    assert all([row["_ng_rollout_index"] for row in group] == [0, 1, 2, 3] for group in groups)
    assert all(len({row["_ng_task_index"] for row in group}) == 1 for group in groups)
    assert sorted((row for group in groups for row in group), key=key) == read_rows(output)
    assert 0 < len(groups) < 20


def test_collect_groups_reads_tasks_from_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`collect_groups` reads stdin once, although the check and the run both need the tasks."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TASKS.read_bytes())))
    parameters = {**EXAMPLE, "input_jsonl_fpath": "-", "output_jsonl_fpath": tmp_path / "r.jsonl", "num_repeats": 2}

    async def run() -> int:
        return len([group async for group in collect_groups(**parameters)])

    assert asyncio.run(run()) == 300


def test_resume_after_leaving_early_yields_earlier_rows_first(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A loop over `collect` can be left early; a resume yields the earlier rows first, and each rollout once."""
    server = serve(delay=[0.01, 0.03])
    output = tmp_path / "r.jsonl"
    parameters: dict[str, Any] = {
        "agent_url": server.url,
        "input_jsonl_fpath": str(tasks(60)),
        "output_jsonl_fpath": str(output),
    }

    async def take_ten() -> None:
        async with aclosing(collect(**parameters, num_samples_in_parallel=4)) as rows:
            taken = 0
            async for _ in rows:
                taken += 1
                if taken == 10:
                    break

    async def resume() -> list[Any]:
        return [row async for row in collect(**parameters, resume_from_cache=True)]

    asyncio.run(take_ten())
    earlier = len(read_rows(output))
    assert 10 <= earlier < 60
    rows = asyncio.run(resume())
    assert sorted(map(key, rows)) == [(task, 0) for task in range(60)]
    assert {key(row)[0] for row in rows[:earlier]} != {key(row)[0] for row in rows[earlier:]}
    assert server.stats()["total"] < 60 + 10


def test_summary_is_reachable_when_a_run_has_ended(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A program learns counts and failures without reading files; before the end, the summary is empty."""
    server = serve(faults={"400": 0.5}, sticky=True)
    parameters: dict[str, Any] = {
        "agent_url": server.url,
        "input_jsonl_fpath": str(tasks(20)),
        "output_jsonl_fpath": str(tmp_path / "r.jsonl"),
    }

    async def run() -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        async with collect(**parameters) as rows:
            before = dict(rows.summary)
            return [row async for row in rows], before, rows.summary

    rows, before, summary = asyncio.run(run())
    assert before == {}
    assert summary["collected"] == len(rows) < 20
    assert summary["failed_by_class"] == {"http_400": 20 - len(rows)}
    assert summary == json.loads((tmp_path / "r_summary.json").read_text())


def test_requests_wait_for_a_slow_consumer(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """While the caller takes no rows, requests stop once 256 rows wait, apart from those in flight."""
    server = serve()
    output = tmp_path / "r.jsonl"
    parameters: dict[str, Any] = {
        "agent_url": server.url,
        "input_jsonl_fpath": str(tasks(600)),
        "output_jsonl_fpath": str(output),
    }

    def total() -> int:
        return int(server.stats()["total"])

    async def run() -> int:
        async with aclosing(collect(**parameters, num_samples_in_parallel=8)) as rows:
            async for _ in rows:
                await asyncio.to_thread(wait_until, lambda: total() >= 256)
                await asyncio.sleep(0.3)  # time in which further requests would be sent
                return await asyncio.to_thread(total)
        return 0

    assert 256 <= asyncio.run(run()) <= 256 + 8 + 8


def test_errors_that_end_a_run_are_raised(tmp_path: Path) -> None:
    """A wrong parameter, an unreachable server and a missed gate are exceptions of their classes."""

    async def run(**parameters: Any) -> None:
        async for _ in collect(
            **{**EXAMPLE, "output_jsonl_fpath": str(tmp_path / "r.jsonl"), "limit": 3, **parameters}
        ):
            pass

    with pytest.raises(ConfigError, match="num_repeats must be >= 1"):
        asyncio.run(run(num_repeats=0))
    with pytest.raises(StoppedEarly):
        asyncio.run(run(agent_url="http://127.0.0.1:9", wait_for_agent_s=0.0))
    with pytest.raises(GateMissed):
        asyncio.run(run(min_mean={"reward": 2.0}))


def test_trainer_example_collects_groups_with_different_rewards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`examples/grpo_buffer.py` runs and fills its buffer with groups of different rewards."""
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "grpo_buffer.py"), run_name="__main__")
    assert "step 1:" in capsys.readouterr().out


def test_leaving_before_the_run_begins_changes_nothing(tmp_path: Path) -> None:
    """A caller that leaves while the run waits for a server keeps the existing output and leaves no task behind."""
    output = tmp_path / "r.jsonl"
    output.write_text("an earlier output\n")

    async def run() -> None:
        rows = collect(
            **{**EXAMPLE, "agent_name": "a"},
            agent_url="http://127.0.0.1:9",
            wait_for_agent_s=1000.0,
            output_jsonl_fpath=output,
        )
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), aclosing(rows):
                await anext(rows)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"r.jsonl": "an earlier output\n"}


def test_cancelling_twice_leaves_complete_rows_and_no_task(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A caller that is cancelled twice leaves no task behind, and every row in the output is complete."""
    output, source, server = tmp_path / "r.jsonl", tasks(200), serve(delay=[0.01, 0.02])
    has_rows = asyncio.Event()

    async def consume() -> None:
        rows = collect(
            agent_url=server.url, input_jsonl_fpath=source, output_jsonl_fpath=output, num_samples_in_parallel=4
        )
        async for _ in rows:
            has_rows.set()

    async def run() -> None:
        consuming = asyncio.create_task(consume())
        await has_rows.wait()
        consuming.cancel()
        await asyncio.sleep(0)
        consuming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consuming
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    assert read_rows(output)


def test_failures_are_raised_only_with_max_failed_rollouts(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """`RolloutsFailed` is raised after the last row, if `max_failed_rollouts` is set and more rollouts failed."""
    server = serve(faults={"400": 0.3}, sticky=True)

    async def run(**extra: Any) -> int:
        taken = 0
        rows = collect(
            agent_url=server.url, input_jsonl_fpath=tasks(20), output_jsonl_fpath=tmp_path / "r.jsonl", **extra
        )
        async for _ in rows:
            taken += 1
        return taken

    assert 0 < asyncio.run(run()) < 20
    assert 0 < asyncio.run(run(max_failed_rollouts=0.9)) < 20
    with pytest.raises(RolloutsFailed, match="max_failed_rollouts=1 allows"):
        asyncio.run(run(max_failed_rollouts=1))


@pytest.mark.parametrize(
    "parameters",
    [
        {"input_jsonl_fpath": "http://u:hunter22@127.0.0.1:1/x?sig=SECRETSIG"},
        {"upload_to": "nosuch://u:hunter22@h/x?sig=SECRETSIG"},
    ],
    ids=["input", "upload"],
)
def test_exceptions_mask_secrets_of_urls(tmp_path: Path, parameters: dict[str, Any]) -> None:
    """The message of an exception has the URL without its password and signature, since messages end up in logs."""

    async def run() -> None:
        async for _ in collect(**{**EXAMPLE, "output_jsonl_fpath": tmp_path / "r.jsonl", **parameters}):
            pass

    with pytest.raises(UsageError) as error:
        asyncio.run(run())
    formatted = "".join(traceback.format_exception(error.value))
    assert "127.0.0.1" in formatted or "nosuch" in formatted
    assert not [secret for secret in ("hunter22", "SECRETSIG") if secret in str(error.value)]


def calls_that_type_checkers_reject() -> None:
    """Calls with wrong keywords: mypy warns about an unused `ignore` if it accepts one of them."""
    collect(agent_nam="a", input_jsonl_fpath="t", output_jsonl_fpath="r")  # type: ignore[call-arg]
    collect(limit="3", input_jsonl_fpath="t", output_jsonl_fpath="r")  # type: ignore[arg-type]
    collect(limit=3)  # type: ignore[call-arg]
    ng_rollouts.colect()  # type: ignore[attr-defined]
