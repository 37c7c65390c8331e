"""The library: rows and groups while they are collected."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import yaml

import ng_rollouts
from ng_rollouts import Parameters, collect, collect_groups, read_groups
from ng_rollouts.config.groups import group_names, group_values
from ng_rollouts.config.kwargs import config_of
from ng_rollouts.config.parameters import CollectConfig, HeadServer, Prices
from ng_rollouts.errors import ConfigError, GateMissed, RolloutsFailed, StoppedEarly, UsageError

from .conftest import ROOT, Ran, Served, keys_of, read_rows

EXAMPLE: dict[str, Any] = {
    "agent_name": "example_math_agent",
    "input_jsonl_fpath": str(ROOT / "examples" / "arithmetic.jsonl"),
}


def key(row: dict[str, Any]) -> tuple[int, int]:
    return row["_ng_task_index"], row["_ng_rollout_index"]


def test_rows_as_they_complete(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """All that end up in the finished file, once each; nothing is printed."""
    output = tmp_path / "r.jsonl"

    async def run() -> list[Any]:
        return [row async for row in collect(**EXAMPLE, output_jsonl_fpath=str(output), limit=20, num_repeats=3)]

    rows = asyncio.run(run())
    assert sorted(rows, key=key) == read_rows(output)
    assert keys_of(output) == [(task, index) for task in range(20) for index in range(3)]
    assert capfd.readouterr() == ("", "")
    assert [len(group) for group in read_groups(output)] == [3] * 20


def test_groups_are_whole_and_in_order(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """Tasks whose rollouts failed give none."""
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


def test_groups_of_tasks_from_stdin(tmp_path: Path) -> None:
    """What can be read once is read once."""
    script = (
        "import asyncio\nfrom ng_rollouts import collect_groups\n"
        "async def main():\n    groups = collect_groups(agent_name='example_math_agent', input_jsonl_fpath='-',\n"
        "        output_jsonl_fpath='r.jsonl', num_repeats=2)\n    print(len([group async for group in groups]))\nasyncio.run(main())\n"
    )
    text = (ROOT / "examples" / "arithmetic.jsonl").read_text()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, input=text, capture_output=True, text=True, check=False
    )
    assert done.stdout == "300\n", done.stderr


def test_who_leaves_early_goes_on_later(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """What was there comes first, then the rest; each rollout once."""
    server = serve(delay=[0.01, 0.03])
    output = tmp_path / "r.jsonl"
    parameters: dict[str, Any] = {
        "agent_url": server.url,
        "input_jsonl_fpath": str(tasks(60)),
        "output_jsonl_fpath": str(output),
    }

    async def some() -> int:
        async with aclosing(collect(**parameters, num_samples_in_parallel=4)) as rows:
            taken = 0
            async for _ in rows:
                taken += 1
                if taken == 10:
                    break
        return taken

    async def rest() -> list[Any]:
        return [row async for row in collect(**parameters, resume_from_cache=True)]

    asyncio.run(some())
    there = len(read_rows(output))
    assert 10 <= there < 60
    rows = asyncio.run(rest())
    assert sorted(map(key, rows)) == [(task, 0) for task in range(60)]
    assert {key(row)[0] for row in rows[:there]} != {key(row)[0] for row in rows[there:]}
    assert server.stats()["total"] < 60 + 10


def test_a_slow_consumer_is_waited_for(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """No more is asked than may wait for it, and what is in flight."""
    server = serve()
    output = tmp_path / "r.jsonl"
    parameters: dict[str, Any] = {
        "agent_url": server.url,
        "input_jsonl_fpath": str(tasks(600)),
        "output_jsonl_fpath": str(output),
    }

    async def run() -> int:
        async with aclosing(collect(**parameters, num_samples_in_parallel=8)) as rows:
            async for _ in rows:
                before = -1
                while (asked := (await asyncio.to_thread(server.stats))["total"]) != before:
                    before = asked
                    await asyncio.sleep(0.3)
                return int(asked)
        return 0

    assert 200 < asyncio.run(run()) <= 256 + 8 + 8


def test_what_ends_a_run_is_raised(tmp_path: Path) -> None:
    """A wrong parameter, a missing server, a gate."""

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


def test_the_example_of_a_trainer_runs(tmp_path: Path) -> None:
    """Groups with a spread of rewards, as they complete."""
    script = ROOT / "examples" / "grpo_buffer.py"
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "step 1:" in done.stdout


def test_keywords_are_the_parameters() -> None:
    """Each of the command, and each config group: none is forgotten, none is made up."""
    assert set(Parameters.__annotations__) == {field.name for field in fields(CollectConfig)} | group_names()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"head_server": {"port": 12000}}, {"head_server": HeadServer(port=12000)}),
        ({"price_per_million": {"input": 1, "output": 2.5}}, {"price_per_million": Prices(input=1.0, output=2.5)}),
        ({"limit": np.int64(3), "min_coverage": 1}, {"limit": 3, "min_coverage": 1.0}),
        ({"prompt_config": Path("p.yaml"), "limit": None}, {"prompt_config": "p.yaml", "limit": None}),
        ({"min_mean": MappingProxyType({"reward": 0.5})}, {"min_mean": {"reward": 0.5}}),
        ({"sampling": "dpo"}, {"num_repeats": 3}),
        ({"sampling": "dpo", "num_repeats": 2}, {"num_repeats": 2}),
        (
            {"sampling": "sft", "responses_create_params": {"temperature": 0.5}},
            {"responses_create_params": {"temperature": 0.5, "top_p": 0.95}},
        ),
        ({"sampling": {"num_repeats": 5}, "verifier": None}, {"num_repeats": 5, "verifier": {}}),
        ({"sampling": None, "executor": {"kind": "local"}}, {"num_repeats": 1, "executor": {"kind": "local"}}),
        ({"agent": "local_server"}, {"agents": {"local_server": {"url": "http://127.0.0.1:8000"}}}),
        (
            {"agent_url": ["http://127.0.0.1:1", "http://127.0.0.1:2"]},
            {"agent_url": ["http://127.0.0.1:1", "http://127.0.0.1:2"]},
        ),
    ],
)
def test_values_of_a_program(given: dict[str, Any], found: dict[str, Any]) -> None:
    """Paths, mappings and numbers of whatever kind, config groups by name; what is given wins over a group."""
    config = config_of({"input_jsonl_fpath": Path("t.jsonl"), "output_jsonl_fpath": "r.jsonl", **given})
    assert {name: getattr(config, name) for name in found} == found
    assert config.input_jsonl_fpath == "t.jsonl"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"agent_nam": "a"}, "unknown parameter agent_nam, did you mean agent_name?"),
        ({"head_server": {"prot": 1}}, "unknown parameter head_server.prot, did you mean port?"),
        ({"limit": "4"}, "limit must be int or None, got '4'"),
        ({"overwrite": 1}, "overwrite must be bool, got 1"),
        ({"limit": True}, "limit must be int or None, got True"),
        ({"agents": ["a"]}, "agents must be dict, got ['a']"),
        ({"sampling": 3}, "sampling must be a name (dpo, eval, research, rl, sft) or a dict, got 3"),
        ({"executor": ["ray"]}, "executor must be a name (local, ray) or a dict, got ['ray']"),
        ({"sampling": "sfd"}, "sampling must be one of dpo, eval, research, rl, sft, got 'sfd'"),
        ({"input_jsonl_fpath": None}, "input_jsonl_fpath must be str, got None"),
    ],
)
def test_wrong_keywords_are_told(given: dict[str, Any], said: str) -> None:
    """With the keyword, and the cure where there is one."""
    with pytest.raises(ConfigError) as told:
        config_of({"input_jsonl_fpath": "t.jsonl", "output_jsonl_fpath": "r.jsonl", **given})
    assert str(told.value) == said


@pytest.mark.parametrize("group", sorted(group_names()))
def test_groups_mean_the_same_to_a_program(command: Callable[..., Ran], group: str) -> None:
    """As Hydra composes them for the command."""
    for file in (ROOT / "conf" / group).glob("*.yaml"):
        shown = command(
            "+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl", f"+{group}={file.stem}", "--cfg", "job"
        )
        composed = yaml.safe_load(shown.stdout)
        values = group_values(group, file.stem)
        assert {name: composed[name] for name in values} == values, file


def test_leaving_before_there_is_anything_changes_nothing(tmp_path: Path) -> None:
    """While servers are still looked for: the output that was there stays, and nothing goes on in the background."""
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


def test_who_is_cancelled_twice_leaves_nothing_behind(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """No task goes on, and what was written is whole."""
    output, source, server = tmp_path / "r.jsonl", tasks(200), serve(delay=[0.01, 0.02])
    enough = asyncio.Event()

    async def consume() -> None:
        rows = collect(
            agent_url=server.url, input_jsonl_fpath=source, output_jsonl_fpath=output, num_samples_in_parallel=4
        )
        async for _ in rows:
            enough.set()

    async def run() -> None:
        consuming = asyncio.create_task(consume())
        await enough.wait()
        consuming.cancel()
        await asyncio.sleep(0)
        consuming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consuming
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    assert read_rows(output)


def test_failures_are_raised_if_it_was_said_how_many_may_be(
    serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """At the end, when all rows have been taken; unless told, a program looks at the failures file itself."""
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
    "given",
    [
        {"input_jsonl_fpath": "http://u:hunter22@127.0.0.1:1/x?sig=SECRETSIG"},
        {"upload_to": "nosuch://u:hunter22@h/x?sig=SECRETSIG"},
    ],
)
def test_errors_hold_no_secrets(tmp_path: Path, given: dict[str, Any]) -> None:
    """They end up in logs."""

    async def run() -> None:
        async for _ in collect(**{**EXAMPLE, "output_jsonl_fpath": tmp_path / "r.jsonl", **given}):
            pass

    with pytest.raises(UsageError) as told:
        asyncio.run(run())
    shown = "".join(traceback.format_exception(told.value))
    assert "127.0.0.1" in shown or "nosuch" in shown
    assert not [secret for secret in ("hunter22", "SECRETSIG") if secret in str(told.value)]


def wrong_programs() -> None:
    """What type checkers refuse; mypy tells if they would not."""
    collect(agent_nam="a", input_jsonl_fpath="t", output_jsonl_fpath="r")  # type: ignore[call-arg]
    collect(limit="3", input_jsonl_fpath="t", output_jsonl_fpath="r")  # type: ignore[arg-type]
    collect(limit=3)  # type: ignore[call-arg]
    ng_rollouts.colect()  # type: ignore[attr-defined]
