"""Which agents answer a row, and how often: NeMo Gym's `agent_map`, `fan_out`, `task_source` and `agent_name`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.agents.server_config import parse_server_config
from ng_rollouts.config.parameters import HeadServer
from ng_rollouts.errors import InputError
from ng_rollouts.inputs.plan import Plan
from ng_rollouts.inputs.routes import Routes
from ng_rollouts.inputs.task_file import TaskFile
from ng_rollouts.inputs.task_parser import TaskParser
from tests.conftest import ROOT, Ran, read_rows

CASES = ROOT / "tests" / "gym07"

rows = st.fixed_dictionaries(
    {}, optional={"agent_ref": st.sampled_from([{"name": "a"}, {"name": "b"}]), "task_source": st.sampled_from("st")}
)
maps = st.dictionaries(st.sampled_from(["a", "b", "s", "_default"]), st.sampled_from(["x", "y"]))


def of_source(source: str) -> str:
    """The agent of a source, by its name."""
    return f"of {source}"


def expand(path: Path, **routes: Any) -> list[tuple[int, int, str]]:
    """Task index, rollout index and agent of the rollouts of a file, with the lines that have an agent."""
    parser = TaskParser(routes=Routes(agent_of_source=of_source, **routes))
    file = TaskFile(path=path, parser=parser, limit=routes.pop("limit", None))
    return [(*rollout.key, rollout.agent) for rollout in file.rollouts(file.plan())]


@pytest.fixture
def routed(tmp_path: Path) -> Callable[[int], Path]:
    """The first rows of the routing case."""

    def write(count: int) -> Path:
        path = tmp_path / "routes.jsonl"
        path.write_text("".join((CASES / "08_routes.jsonl").read_text().splitlines(keepends=True)[:count]))
        return path

    return write


@given(row=rows, agent_map=maps)
def test_agent_is_the_first_in_the_order_of_precedence(row: dict[str, Any], agent_map: dict[str, str]) -> None:
    """`agent_map` at the row's agent, its source and `_default` comes first, then the row's agent, then its source's."""
    own, source = row.get("agent_ref", {}).get("name"), row.get("task_source")
    expected = next((agent_map[key] for key in (own, source, "_default") if key in agent_map), None)
    expected = expected or own or (f"of {source}" if source else None)
    routes = Routes(agent_map=agent_map, agent_of_source=of_source)
    if expected is None:
        with pytest.raises(InputError, match="no agent specified"):
            routes.route(row)
    else:
        assert routes.route(row).runs == ((expected, 1),)


def test_rows_are_routed_as_by_nemo_gym(routed: Callable[[int], Path]) -> None:
    """The routing case, but for equal rows: they are tasks of their own, so that line i belongs to task i // n."""
    assert expand(routed(4)) == [(0, 0, "x"), (1, 0, "of s"), (2, 0, "x"), (3, 0, "x")]
    with pytest.raises(InputError, match="line 5: no agent specified"):
        expand(routed(5))
    assert [agent for *_, agent in expand(routed(5), agent_map={"_default": "y"})] == ["y"] * 5
    assert [agent for *_, agent in expand(routed(4), agent_map={"s": "z"})] == ["x", "z", "z", "x"]
    both = {"x": "w", "_default": "y"}
    assert [agent for *_, agent in expand(routed(5), agent_map=both)] == ["w", "y", "w", "w", "y"]


def test_rollouts_of_several_agents_are_one_task(routed: Callable[[int], Path]) -> None:
    """`fan_out` continues the rollout indices of a task from agent to agent, and each may have its own number."""
    fan_out = {"x": ["p", "q"]}
    expected = [(0, 0, "p"), (0, 1, "p"), (0, 2, "q"), (0, 3, "q")]
    assert expand(routed(1), fan_out=fan_out, repeats=2) == expected
    assert expand(routed(1), fan_out=fan_out, repeats={"p": 2, "x": 1}) == [*expected[:2], (0, 2, "q")]


def test_interleaved_rollouts_are_the_same_in_another_order(routed: Callable[[int], Path]) -> None:
    """`interleave_repeats` sends the first rollouts of all tasks first; keys and positions are as before."""
    file = TaskFile(path=routed(2), parser=TaskParser(routes=Routes(agent_of_source=of_source, repeats=2)))
    plan = file.plan()
    interleaved = list(file.interleaved_rollouts(plan))
    assert [rollout.key for rollout in interleaved] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert sorted(interleaved, key=lambda each: each.position) == list(file.rollouts(plan))


def test_own_reference_of_a_row_is_kept_unless_it_is_routed(routed: Callable[[int], Path]) -> None:
    """The request has all fields of the row's `agent_ref`, but of another agent only the name."""
    for agent_map, expected in (({}, {"type": "responses_api_agents", "name": "x"}), ({"x": "w"}, {"name": "w"})):
        file = TaskFile(path=routed(1), parser=TaskParser(routes=Routes(agent_map=agent_map)))
        [rollout] = file.rollouts(file.plan())
        assert rollout.request().body["agent_ref"] == expected


def test_sources_have_the_agents_of_their_servers() -> None:
    """A `task_source` is an agent, or an entry whose data name an agent, or whose only agent it is; else an error."""
    config = parse_server_config(yaml.safe_load((CASES / "07_config.yaml").read_text()), HeadServer())
    lines = [json.loads(line) for line in (CASES / "07_task_source.jsonl").read_text().splitlines()]
    routes = Routes(agent_of_source=config.agent_of_source)
    expected = ["sums_simple_agent", "sums_simple_agent", "maths_b_agent", "sums_other_agent"]
    assert [routes.route(line).runs[0].agent for line in lines[:4]] == expected
    reasons = [
        "'lonely' has no agent",
        "'twice' has 2 agents",
        "is not an entry that data belong to",
        "did you mean sums?",
    ]
    for line, reason in zip(lines[4:], reasons, strict=True):
        with pytest.raises(InputError) as raised:
            routes.route(line)
        assert reason in str(raised.value)


def test_agent_name_answers_every_row_and_says_so(
    command: Callable[..., Ran], serve: Callable[..., Any], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """`agent_name` replaces the agents that rows name, with a warning that counts these rows."""
    tasks([{"agent_ref": {"name": name}, "responses_create_params": {"input": "q"}} for name in ("x", "a", "y")])
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", f"+agents.a.url={serve().url}"]
    ran = command(*files, "+agent_name=a")
    assert ran.code == 0, ran.stderr
    assert "agent_name=a replaces the agent that 2 rows name in agent_ref" in ran.stderr
    assert [row["agent_ref"]["name"] for row in read_rows(tmp_path / "r.jsonl")] == ["a"] * 3
    ran = command(*files, "+agent_name=a", "+agent_map={_default: b}")
    assert (ran.code, "name two agents for all rows" in ran.stderr) == (2, True)


def test_fan_out_collects_with_each_agent_and_resumes(
    command: Callable[..., Ran], serve: Callable[..., Any], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A group has the rollouts of all agents of its task, metrics are by agent, and a resume keeps the routes."""
    tasks([{"agent_ref": {"name": "x"}, "responses_create_params": {"input": f"q{n}"}} for n in range(3)])
    run = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+num_repeats=2"]
    run += [f"+agents.p.url={serve().url}", f"+agents.q.url={serve().url}"]
    ran = command(*run, "+fan_out.x=[p,q]")
    assert ran.code == 0, ran.stderr
    keys = [
        (row["_ng_task_index"], row["_ng_rollout_index"], row["agent_ref"]["name"])
        for row in read_rows(tmp_path / "r.jsonl")
    ]
    assert keys == [(task, index, "ppqq"[index]) for task in range(3) for index in range(4)]
    entries = json.loads((tmp_path / "r_aggregate_metrics.json").read_text())
    assert [entry["agent_ref"]["name"] for entry in entries] == ["p", "q"]
    assert command(*run, "+fan_out.x=[p,q]", "+resume_from_cache=true").code == 0
    for change, reason in (("+fan_out.x=[p]", "fan_out:"), ("+num_repeats=3", "several rows or agents have the same")):
        settings = [change] if "fan_out" in change else ["+fan_out.x=[p,q]", change]
        ran = command(*run, *settings, "+resume_from_cache=true")
        assert (ran.code, reason in ran.stderr) == (2, True), ran.stderr


@pytest.mark.parametrize("value", ["[]", "[p,p]", "p", "[1]"])
def test_fan_out_that_is_not_a_list_of_agents_is_a_usage_error(command: Callable[..., Ran], value: str) -> None:
    """Each key of `fan_out` has a list of different names."""
    ran = command("+input_jsonl_fpath=t.jsonl", "+output_jsonl_fpath=r.jsonl", f"+fan_out.x={value}")
    assert (ran.code, "fan_out.x must be a list of different agents" in ran.stderr) == (2, True), ran.stderr


def test_plan_counts_rows_of_several_agents() -> None:
    """A task of several agents counts once, and its rollouts for each of them."""
    plan, parser = Plan(), TaskParser(routes=Routes(fan_out={"x": ["p", "q"]}, repeats=2))
    plan.add(parser.parse(b'{"agent_ref": {"name": "x"}, "responses_create_params": {"input": "q"}}'))
    assert (plan.rows, plan.rollouts, dict(plan.agents), plan.most_repeats) == (1, 4, {"p": 1, "q": 1}, 4)


def test_keys_that_no_row_names_are_reported(
    command: Callable[..., Ran], serve: Callable[..., Any], tasks: Callable[..., Path]
) -> None:
    """A misspelled key of `agent_map` or `fan_out` is a warning; one that a row names, and `_default`, are not."""
    tasks([{"task_source": "s", "responses_create_params": {"input": "q"}}])
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", f"+agents.a.url={serve().url}"]
    ran = command(*files, "+agent_map={s: a, _default: a, sources: a}", "+fan_out.x=[a]")
    assert ran.code == 0, ran.stderr
    warnings = [line for line in ran.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: agent_map lists 'sources', but no row has it as agent or task_source",
        "warning: fan_out lists 'x', but no row has it as agent or task_source",
    ]
