"""Rows to tasks: agents, repeats, seeds, overrides and prompt templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts.errors import InputError
from ng_rollouts.inputs.task_file import TaskFile
from tests.conftest import Ran, read_rows
from tests.inputs.helpers import PLAIN, expanded, lines, parser_of, written
from tests.servers import Served


def test_overrides_replace_whole_fields_of_the_request(tmp_path: Path) -> None:
    """An override replaces a field of the request with all that is nested in it; other fields of the row stay."""
    row = {"keep": 1, "responses_create_params": {"input": "hi", "reasoning": {"effort": "low", "x": 1}, "top_p": 0.5}}
    parser = parser_of(overrides={"reasoning": {"effort": "high"}, "temperature": 0.0})
    _, [rollout] = expanded(written(tmp_path, lines([row])), parser)
    assert rollout.request().body == {
        "keep": 1,
        "responses_create_params": {
            "input": [{"role": "user", "content": "hi"}],
            "reasoning": {"effort": "high"},
            "top_p": 0.5,
            "temperature": 0.0,
        },
        "_ng_task_index": 0,
        "_ng_rollout_index": 0,
        "agent_ref": {"name": "a"},
    }


def test_added_seed_is_the_rollout_index_plus_the_configured_seed(tmp_path: Path) -> None:
    """With `num_repeats_add_seed`, a rollout's seed is its rollout index plus the configured seed, which defaults to 0."""
    path = written(tmp_path, lines([PLAIN, PLAIN]))
    for seed, expected in ((None, [0, 1, 0, 1]), (40, [40, 41, 40, 41])):
        overrides = {} if seed is None else {"seed": seed}
        _, rollouts = expanded(path, parser_of(repeats=2, add_seed=True, overrides=overrides))
        assert [rollout.request().body["responses_create_params"]["seed"] for rollout in rollouts] == expected


def test_row_without_an_agent_is_an_error(tmp_path: Path) -> None:
    """A row without an agent is an error that says how to give one."""
    with pytest.raises(
        InputError, match=r"no agent specified: give \+agent_name=NAME, \+agent_url=URL or \+policy_base_url=URL"
    ):
        TaskFile(path=written(tmp_path, lines([PLAIN])), parser=parser_of(None)).plan()


def test_repeats_by_agent_must_cover_every_agent(tmp_path: Path) -> None:
    """With `num_repeats` by agent, an agent that the dict does not cover is an error, unless it has `_default`."""
    path = written(tmp_path, lines([{**PLAIN, "agent_ref": {"name": name}} for name in "ab"]))
    assert expanded(path, parser_of(None, {"a": 2, "_default": 3}))[0].rollouts == 5
    with pytest.raises(InputError, match="num_repeats has neither the agent 'b' nor _default"):
        expanded(path, parser_of(None, {"a": 2}))


def test_prompt_template_makes_the_input_from_the_fields_of_a_row(
    command: Callable[..., Ran], serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """`prompt_config` makes the input of rows without one; a missing field is an error that names row and field."""
    (tmp_path / "p.yaml").write_text("system: short\nuser: 'Q: {question}'\n")
    tasks([{"question": "why?"}])
    arguments = [
        f"+agent_url={serve().url}",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        "+prompt_config=p.yaml",
    ]
    assert command(*arguments).code == 0
    [row] = read_rows(tmp_path / "r.jsonl")
    assert row["input"] == [{"role": "system", "content": "short"}, {"role": "user", "content": "Q: why?"}]
    tasks([{"question": "why?"}, {"answer": "so"}])
    ran = command(*arguments)
    assert ran.code == 2
    assert "line 2: the prompt template needs the field 'question', which the row does not have" in ran.stderr


def test_row_of_an_output_is_a_new_task() -> None:
    """Name and attempt of the rollout that a row is from are not sent again; those of a task that has them are."""
    fields = {"_ng_rollout_id": "x", "_ng_attempt_index": 2}
    output = parser_of().parse(json.dumps({**PLAIN, **fields, "_ng_rollout_index": 1}).encode()).row
    assert output.keys() & fields.keys() == set()
    assert parser_of().parse(json.dumps({**PLAIN, "_ng_rollout_id": "x"}).encode()).row["_ng_rollout_id"] == "x"
