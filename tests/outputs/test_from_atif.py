"""ATIF trajectories are read wherever a file of rollouts is read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from ng_rollouts import read_groups, read_rollouts
from ng_rollouts.errors import InputError
from ng_rollouts.outputs import merge
from ng_rollouts.outputs.from_atif import row_of
from ng_rollouts.outputs.paths import output_paths
from ng_rollouts.report.served_file import ServedFile
from ng_rollouts.report.task_index import AgentNumbers
from tests.conftest import Ran, read_rows
from tests.rollout_files import rollout_row, write_rows

TRAJECTORY: dict[str, Any] = {
    "schema_version": "ATIF-v1.7",
    "session_id": "evening",
    "trajectory_id": "evening:0:0",
    "agent": {
        "name": "guide",
        "version": "2.1",
        "model_name": "small",
        "tool_definitions": [{"type": "function", "function": {"name": "depth", "parameters": {"type": "object"}}}],
    },
    "steps": [
        {"step_id": 1, "source": "system", "message": "Answer in metres."},
        {"step_id": 2, "source": "user", "message": "How deep is the lake?"},
        {
            "step_id": 3,
            "source": "agent",
            "message": "",
            "reasoning_content": "I look it up.",
            "tool_calls": [{"tool_call_id": "c1", "function_name": "depth", "arguments": {"lake": 7}}],
            "observation": {"results": [{"source_call_id": "c1", "content": "254 m"}]},
            "metrics": {"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 0, "cost_usd": 0.25},
            "llm_call_count": 1,
        },
        {
            "step_id": 4,
            "source": "agent",
            "message": [{"type": "text", "text": "254"}],
            "timestamp": "2026-01-01T01:00:00+01:00",
            "metrics": {"prompt_tokens": 9, "completion_tokens": 1, "cached_tokens": 4},
            "llm_call_count": 1,
        },
    ],
    "final_metrics": {
        "total_prompt_tokens": 14,
        "total_completion_tokens": 3,
        "total_cached_tokens": 4,
        "total_steps": 4,
    },
}
"""A trajectory as another program writes it: without reward and key."""


def trajectory(reward: float | None = None, question: str = "How deep is the lake?", **extra: Any) -> dict[str, Any]:
    """The trajectory with a reward and other fields in `extra`."""
    made = deepcopy(TRAJECTORY)
    made["steps"][1]["message"] = question
    if reward is not None or extra:
        made["extra"] = {"reward": reward, **extra}
    return made


def test_steps_are_the_items_of_a_response() -> None:
    """Reasoning, calls, results and messages are items; usage, model and time are those of the response."""
    row = row_of(TRAJECTORY)
    reasoning, call, result, message = row["response"]["output"]
    assert (reasoning["type"], reasoning["summary"][0]["text"]) == ("reasoning", "I look it up.")
    assert (call["type"], call["name"], call["call_id"]) == ("function_call", "depth", "c1")
    assert json.loads(call["arguments"]) == {"lake": 7}
    assert (result["type"], result["call_id"], result["output"]) == ("function_call_output", "c1", "254 m")
    assert (message["role"], message["content"][0]["text"]) == ("assistant", "254")
    usage = row["response"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (14, 3, 17)
    assert usage["input_tokens_details"] == {"cached_tokens": 4}
    assert (row["response"]["model"], row["response"]["created_at"]) == ("small", 1767225600)
    params = row["responses_create_params"]
    assert [(each["role"], each["content"]) for each in params["input"]] == [
        ("system", "Answer in metres."),
        ("user", "How deep is the lake?"),
    ]
    assert (params["model"], params["tools"][0]["name"]) == ("small", "depth")
    assert row["agent_ref"] == {"name": "guide"}
    assert row["atif"]["agent"] == {"version": "2.1"}
    assert row["atif"]["steps"][0]["metrics"]["cost_usd"] == 0.25


def test_usage_is_the_sum_over_steps_if_there_are_no_totals() -> None:
    """Without totals, the token counts of the steps are added up; without counts, there is no usage."""
    without = {name: value for name, value in TRAJECTORY.items() if name != "final_metrics"}
    assert row_of(without)["response"]["usage"]["total_tokens"] == 17
    steps = [{name: value for name, value in step.items() if name != "metrics"} for step in TRAJECTORY["steps"]]
    assert "usage" not in row_of({**without, "steps": steps})["response"]


def test_messages_of_the_user_after_an_answer_are_part_of_the_response() -> None:
    """The prompt ends with the first step of the agent: later messages of the user are in the output."""
    more = [
        {"step_id": 5, "source": "user", "message": "Why?"},
        {"step_id": 6, "source": "agent", "message": "A glacier."},
    ]
    row = row_of({**TRAJECTORY, "steps": [*TRAJECTORY["steps"], *more]})
    assert [item.get("role") for item in row["response"]["output"][-3:]] == ["assistant", "user", "assistant"]
    assert len(row["responses_create_params"]["input"]) == 2


def test_images_and_audio_are_parts_of_messages() -> None:
    """An image is a part with its address. Audio, which version 1.8 has, is kept as it is."""
    image = {"type": "image", "source": {"media_type": "image/png", "path": "images/a.png"}}
    audio = {"type": "audio", "source": {"media_type": "audio/wav", "path": "a.wav"}}
    first = {"step_id": 1, "source": "user", "message": [{"type": "text", "text": "What?"}, image, audio]}
    row = row_of({**TRAJECTORY, "schema_version": "ATIF-v1.8", "steps": [first]})
    assert row["responses_create_params"]["input"][0]["content"] == [
        {"type": "input_text", "text": "What?"},
        {"type": "input_image", "image_url": "images/a.png"},
        audio,
    ]


def test_keys_are_those_of_extra_and_of_nemo_gym() -> None:
    """The key is in `extra`, or where NeMo Gym's exporter writes it."""
    row = row_of(trajectory(1.0, _ng_task_index=4, _ng_rollout_index=2))
    assert (row["_ng_task_index"], row["_ng_rollout_index"], row["reward"]) == (4, 2, 1.0)
    row = row_of({**TRAJECTORY, "extra": {"nemo_gym": {"source": {"task_index": 5, "rollout_index": 1}}}})
    assert (row["_ng_task_index"], row["_ng_rollout_index"]) == (5, 1)


def test_trajectories_without_keys_are_grouped_by_question(tmp_path: Path) -> None:
    """Trajectories with the same prompt and tools are rollouts of one task, in the order of the file."""
    rows = [trajectory(0.0), trajectory(0.5, "How long is it?"), trajectory(1.0)]
    groups = read_groups(write_rows(tmp_path / "t.jsonl", rows))
    assert [[row["reward"] for row in group] for group in groups] == [[0.0, 1.0], [0.5]]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_pretty_printed_trajectory_is_a_file_of_one_rollout(tmp_path: Path, newline: str) -> None:
    """A document over several lines, which may be compressed, is one rollout."""
    text = json.dumps(TRAJECTORY, indent=2).replace("\n", newline).encode()
    (tmp_path / "t.json").write_bytes(text)
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(text))
    for name in ("t.json", "t.json.gz"):
        assert [row["response"]["model"] for row in read_rollouts(tmp_path / name)] == ["small"]


def test_other_pretty_printed_objects_are_errors_of_their_first_line(tmp_path: Path) -> None:
    """An object over several lines that is not a trajectory is reported as in any other file of rollouts."""
    (tmp_path / "t.json").write_text(json.dumps({"reward": 1.0}, indent=2))
    with pytest.raises(InputError, match="line 1: not JSON"):
        list(read_rollouts(tmp_path / "t.json"))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": None},
        {"agent": {}},
        {"steps": [{"step_id": 1, "source": "agent"}]},
        {"steps": [{"step_id": 1, "source": "agent", "message": "", "timestamp": "noon"}]},
        {"extra": [1]},
    ],
)
def test_a_damaged_trajectory_is_an_error_with_its_line(tmp_path: Path, change: dict[str, Any]) -> None:
    """A trajectory that does not follow the specification is reported with its line."""
    file = write_rows(tmp_path / "t.jsonl", [TRAJECTORY, {**TRAJECTORY, **change}])
    with pytest.raises(InputError, match="line 2: not a valid ATIF trajectory: "):
        list(read_rollouts(file))


def test_every_command_reads_trajectories(command: Callable[..., Ran], tmp_path: Path) -> None:
    """Every command that reads rollouts reads trajectories, with and without keys, and gives the same results."""
    rewards = {"How deep?": (0.0, 1.0), "How long?": (1.0, 1.0)}
    rows = [
        trajectory(reward, question, _ng_task_index=task, _ng_rollout_index=index)
        for task, (question, values) in enumerate(rewards.items())
        for index, reward in enumerate(values)
    ]
    write_rows(tmp_path / "keys.jsonl", rows)
    write_rows(tmp_path / "none.jsonl", [{**row, "extra": {"reward": row["extra"]["reward"]}} for row in rows])
    write_rows(tmp_path / "other.jsonl", [row_of(row) for row in rows])
    for name in ("keys", "none"):
        for script, *arguments in (
            ("ng_reward_profile", f"+rollouts_jsonl_fpath={name}.jsonl"),
            ("ng_compare_rollouts", f"+rollouts_jsonl_fpaths={name}.jsonl,other.jsonl"),
            ("ng_aggregate_rollouts", f"+input_glob={name}.jsonl", f"+output_jsonl_fpath={name}_m.jsonl"),
            ("ng_view_rollouts", f"+input_jsonl_fpath={name}.jsonl"),
            (
                "ng_export_rollouts",
                f"+input_jsonl_fpath={name}.jsonl",
                f"+output_jsonl_fpath={name}_o.jsonl",
                "+recipe=sft",
            ),
        ):
            ran = command(*arguments, script=script)
            assert ran.code == 0, ran.stderr
        profile = read_rows(tmp_path / f"{name}_reward_profiling.jsonl")
        assert [(row["mean/reward"], row["mean/input_tokens"]) for row in profile] == [(0.5, 14), (1.0, 14)]
        assert [row["reward"] for row in read_rollouts(tmp_path / f"{name}_m.jsonl")] == [0.0, 1.0, 1.0, 1.0]
        roles = [message["role"] for message in read_rows(tmp_path / f"{name}_o.jsonl")[0]["messages"]]
        assert roles == ["system", "user", "assistant", "tool", "assistant"]


def test_a_page_serves_trajectories(tmp_path: Path) -> None:
    """A served page has the rows of trajectories, of a file with many and of a pretty-printed one."""
    write_rows(tmp_path / "t.jsonl", [trajectory(0.0), trajectory(1.0)])
    (tmp_path / "t.json").write_text(json.dumps(trajectory(1.0), indent=2))
    for name, rollouts in (("t.jsonl", 2), ("t.json", 1)):
        file = ServedFile(output_paths(str(tmp_path / name)), "reward", AgentNumbers())
        file.load()
        assert len(file.rows_of(0).splitlines()) == rollouts
        assert file.search("254 m") == [0]


def test_a_folder_of_trajectories_can_be_merged(
    command: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents of one trajectory each are merged to a file with one on each line, without other JSON files.

    The number of files that are open at once is limited.
    """
    monkeypatch.setattr(merge, "_MAX_OPEN", 2)
    for number in range(5):
        document = trajectory(float(number), _ng_task_index=4 - number, _ng_rollout_index=0)
        (tmp_path / f"{number}.json").write_text(json.dumps(document, indent=2))
    (tmp_path / "summary.json").write_text(json.dumps({"rollouts": 5}))
    write_rows(tmp_path / "other.jsonl", [rollout_row(5, 0, 9.0)])
    ran = command("+input_glob=*.json,*.jsonl", "+output_jsonl_fpath=m.jsonl", script="ng_aggregate_rollouts")
    assert ran.code == 0, ran.stderr
    assert [row["reward"] for row in read_rollouts(tmp_path / "m.jsonl")] == [4.0, 3.0, 2.0, 1.0, 0.0, 9.0]
