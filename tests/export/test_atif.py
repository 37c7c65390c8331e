"""Rollouts are exported as ATIF trajectories that follow the specification, and nothing of a row is lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ng_rollouts.export.atif import Identity, trajectory_of
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.outputs.from_atif import row_of
from tests.conftest import EXAMPLE, Ran, read_rows
from tests.export.helpers import export_groups
from tests.rollout_files import rollout_row, write_rows

TEXTS = st.text(max_size=8)
IDS = st.sampled_from(["c1", "c2", "c3"])
IMAGES = ["data:image/png;base64,iVBORw0KGgo=", "https://example.com/a.jpg", "https://example.com/a"]
JSON_OBJECTS = st.dictionaries(TEXTS, TEXTS | st.integers(-9, 9) | st.none() | st.lists(st.booleans()), max_size=2)


def _text_parts(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda text: {"type": kind, "text": text, "annotations": []}, TEXTS)


def _images(urls: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return urls.map(lambda url: {"type": "input_image", "image_url": url})


MESSAGES = st.builds(
    lambda content, fields: {"type": "message", "role": "assistant", "content": content, **fields},
    TEXTS | st.lists(_text_parts("output_text") | st.just({"type": "refusal", "refusal": "no"}), max_size=2),
    st.sampled_from([{}, {"id": "msg_0", "status": "completed"}, {"id": "msg_1", "status": None, "phase": "final"}]),
)
REASONING = st.builds(
    lambda texts, fields: {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": t} for t in texts],
        **fields,
    },
    st.lists(TEXTS, max_size=2),
    st.sampled_from([{}, {"id": "rs_0"}, {"content": [], "encrypted_content": "x"}]),
)
CALLS = st.builds(
    lambda call_id, name, arguments: {
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    },
    IDS | st.none(),
    TEXTS,
    JSON_OBJECTS.map(lambda value: dumps(value).decode()) | JSON_OBJECTS.map(json.dumps) | st.sampled_from(["", "[1]"]),
)
RESULTS = st.builds(
    lambda call_id, output: {"type": "function_call_output", "call_id": call_id, "output": output},
    IDS | st.none(),
    TEXTS | st.lists(_text_parts("input_text") | _images(st.sampled_from(IMAGES)), max_size=2),
)
OTHERS = st.sampled_from(
    [
        {"type": "web_search_call", "id": "ws_1", "action": {"query": "q"}},
        {"role": "user", "content": "and now?"},
        {
            "type": "message",
            "role": "assistant",
            "content": [],
            "generation_token_ids": [3],
            "prompt_token_ids": [1, 2],
        },
    ]
)
ITEMS = st.lists(MESSAGES | REASONING | CALLS | RESULTS | OTHERS, max_size=7)
PROMPTS = st.one_of(
    TEXTS,
    st.lists(
        st.builds(
            lambda role, content: {"role": role, "content": content},
            st.sampled_from(["system", "developer", "user", "assistant"]),
            TEXTS | st.lists(_text_parts("input_text") | _images(st.sampled_from(IMAGES)), max_size=2),
        )
        | CALLS
        | RESULTS,
        max_size=4,
    ),
)
COUNTS = st.integers(0, 2**40)
USAGES = st.sampled_from([{}, {"usage": None}, {"usage": {"input_tokens": None, "cost": 0.5}}]) | st.builds(
    lambda prompt, cached, completion, reasoning: {
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": prompt + completion,
        }
    },
    *(COUNTS, COUNTS, COUNTS, COUNTS),
)
ROWS = st.builds(
    lambda prompt, output, usage, reward, fields, params: {
        "responses_create_params": {"input": prompt, **params},
        "response": {"output": output, **usage, **fields},
        "reward": reward,
        "_ng_task_index": 3,
        "_ng_rollout_index": 1,
    },
    PROMPTS,
    ITEMS,
    USAGES,
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([{}, {"model": "m", "object": "response", "created_at": 1767225600.25, "status": "incomplete"}]),
    st.sampled_from(
        [
            {},
            {"instructions": "be brief", "temperature": 0.5, "model": "n"},
            {"tools": [{"type": "function", "name": "f", "parameters": {}}, {"type": "web_search"}]},
        ]
    ),
)

FIELDS = {
    "trajectory": "schema_version session_id trajectory_id agent steps final_metrics extra",
    "agent": "name version model_name tool_definitions extra",
    "step": "step_id timestamp source message reasoning_content tool_calls observation metrics is_copied_context extra",
    "call": "tool_call_id function_name arguments extra",
    "result": "source_call_id content extra",
    "metrics": "prompt_tokens completion_tokens cached_tokens prompt_token_ids completion_token_ids logprobs extra",
    "totals": "total_prompt_tokens total_completion_tokens total_cached_tokens total_steps extra",
}
"""The fields of the specification that exports have."""


def check_fields(name: str, value: dict[str, Any]) -> None:
    assert value.keys() <= set(FIELDS[name].split())


def check_content(content: Any) -> None:
    """A content is text, or a list of parts: texts, and images with their type and address."""
    for part in [] if isinstance(content, str) else content:
        if part["type"] == "text":
            assert part.keys() == {"type", "text"}
            assert isinstance(part["text"], str)
        else:
            assert (part["type"], part.keys()) == ("image", {"type", "source"})
            assert part["source"]["media_type"] in ("image/jpeg", "image/png", "image/gif", "image/webp")
            assert isinstance(part["source"]["path"], str)


def check_trajectory(trajectory: dict[str, Any]) -> None:
    """A trajectory follows version 1.7 of the specification."""
    check_fields("trajectory", trajectory)
    check_fields("agent", trajectory["agent"])
    check_fields("totals", trajectory["final_metrics"])
    assert all(isinstance(trajectory["agent"][name], str) for name in ("name", "version"))
    assert [step["step_id"] for step in trajectory["steps"]] == list(range(1, len(trajectory["steps"]) + 1))
    assert trajectory["final_metrics"]["total_steps"] == len(trajectory["steps"]) > 0
    for step in trajectory["steps"]:
        check_step(step)


def check_step(step: dict[str, Any]) -> None:
    """A step has the fields of its source, and its results are of its own calls."""
    check_fields("step", step)
    check_fields("metrics", step.get("metrics", {}))
    check_content(step["message"])
    if step["source"] != "agent":
        assert step["source"] in ("system", "user")
        assert not step.keys() & {"reasoning_content", "tool_calls", "metrics", "observation"}
    if "timestamp" in step:
        datetime.fromisoformat(step["timestamp"])
    calls = step.get("tool_calls", [])
    for call in calls:
        check_fields("call", call)
        assert isinstance(call["tool_call_id"], str)
        assert isinstance(call["arguments"], dict)
    for result in step.get("observation", {"results": []})["results"]:
        check_fields("result", result)
        check_content(result["content"])
        assert result.get("source_call_id") in [None, *(call["tool_call_id"] for call in calls)]


def exported(row: dict[str, Any]) -> tuple[Any, Counter[str]]:
    """The trajectory of a row as a file has it, and what it has in `extra` alone."""
    lost = Counter[str]()
    trajectory = trajectory_of(row, Identity("rollouts", 3, 1), lost)
    return (None if trajectory is None else loads(dumps(trajectory))), +lost


@settings(deadline=None, max_examples=300)
@given(row=ROWS)
def test_a_row_is_the_same_after_export_and_reading(row: dict[str, Any]) -> None:
    """Every trajectory follows the specification, and its row has the values that it had before."""
    trajectory, _ = exported(row)
    if trajectory is None:
        assert not row["responses_create_params"]["input"] or row["response"]["output"] == []
        return
    check_trajectory(trajectory)
    assert row_of(trajectory) == row


@settings(deadline=None, max_examples=100)
@given(row=ROWS)
def test_a_row_that_was_read_is_exported_as_the_same_trajectory(row: dict[str, Any]) -> None:
    """A second export has the first one's content."""
    first, _ = exported(row)
    if first is not None:
        assert exported(row_of(first))[0] == first


def test_a_step_has_a_reply_of_the_model_with_the_results_of_its_calls() -> None:
    """Reasoning, message and parallel calls are one step of the agent; their results are its observation."""
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "two cities"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Zürich"}'},
        {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": '{"city": "東京"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "☀"},
        {"type": "function_call_output", "call_id": "c2", "output": "☂"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Sun, rain."}]},
    ]
    usage = {"input_tokens": 40, "input_tokens_details": {"cached_tokens": 16}, "output_tokens": 9, "total_tokens": 49}
    row = rollout_row(2, 0, 1.0, agent_ref={"name": "guide"})
    row["responses_create_params"]["instructions"] = "Be brief."
    row["response"] = {"output": output, "usage": usage, "model": "m"}
    trajectory, lost = exported(row)
    check_trajectory(trajectory)
    system, user, first, second = trajectory["steps"]
    assert (system["source"], system["message"]) == ("system", "Be brief.")
    assert (user["source"], user["message"]) == ("user", "question 2")
    assert (first["reasoning_content"], first["message"]) == ("two cities", "I look.")
    assert [(call["tool_call_id"], call["arguments"]) for call in first["tool_calls"]] == [
        ("c1", {"city": "Zürich"}),
        ("c2", {"city": "東京"}),
    ]
    assert first["observation"]["results"] == [
        {"source_call_id": "c1", "content": "☀"},
        {"source_call_id": "c2", "content": "☂"},
    ]
    assert second["message"] == "Sun, rain."
    totals = {"total_prompt_tokens": 40, "total_completion_tokens": 9, "total_cached_tokens": 16, "total_steps": 4}
    assert trajectory["final_metrics"] == totals
    assert trajectory["agent"] == {"name": "guide", "version": "unknown", "model_name": "m"}
    assert (trajectory["extra"]["reward"], trajectory["extra"]["_ng_task_index"]) == (1.0, 2)
    assert not lost


def test_earlier_answers_in_the_prompt_are_copied_context() -> None:
    """An answer in the prompt is not one of this rollout: its step is marked, so nothing trains on it."""
    row = rollout_row(0, 0, 1.0)
    first, question = {"role": "assistant", "content": "4"}, {"role": "user", "content": "and 3 + 3?"}
    row["responses_create_params"]["input"] += [first, question]
    trajectory, _ = exported(row)
    copied = [step.get("is_copied_context", False) for step in trajectory["steps"]]
    assert copied == [False, True, False, False]
    assert row_of(trajectory) == row


def test_token_ids_are_metrics_of_the_step_that_generated_them() -> None:
    """The token ids of each reply of the model are in the metrics of its step."""
    ids = {"prompt_token_ids": [1, 2], "generation_token_ids": [3, 4], "generation_log_probs": [-0.5, -1]}
    row = rollout_row(0, 0, 1.0)
    row["response"]["output"] = [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}], **ids}
        for text in ("first", "second")
    ]
    trajectory, _ = exported(row)
    names = ("prompt_token_ids", "completion_token_ids", "logprobs")
    assert [step.get("metrics") for step in trajectory["steps"]] == [
        None,
        *[dict(zip(names, ids.values(), strict=True))] * 2,
    ]


def test_training_view_is_made_again() -> None:
    """Chat messages that follow from the request and the response are not in the trajectory, but in its row again."""
    row = rollout_row(0, 0, 1.0)
    row["input"] = [{"role": "user", "content": "question 0"}]
    row["output"] = [{"role": "assistant", "content": "answer 0"}]
    trajectory, _ = exported(row)
    assert not trajectory["extra"].keys() & {"input", "output"}
    assert row_of(trajectory) == row


def test_what_the_specification_has_no_field_for_is_counted() -> None:
    """The summary names what is in `extra` alone, and the rows that are no trajectory."""
    row = rollout_row(0, 0, 1.0)
    row["responses_create_params"]["input"] = [
        {"role": "user", "content": [{"type": "input_image", "image_url": url} for url in IMAGES]},
        {"role": "user", "content": [{"type": "input_file", "file_id": "f"}]},
    ]
    row["response"]["output"] = [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "[1]"},
        {"type": "web_search_call", "id": "w"},
        {"type": "reasoning", "summary": [], "encrypted_content": "x"},
    ]
    trajectory, lost = exported(row)
    check_trajectory(trajectory)
    assert [part["source"]["media_type"] for part in trajectory["steps"][0]["message"]] == ["image/png", "image/jpeg"]
    assert lost == {
        "images that are neither data nor an address with a known extension": 1,
        "parts of type input_file": 1,
        "tool arguments that are not an object": 1,
        "items of type web_search_call": 1,
        "reasoning without text": 1,
    }
    rows, skipped = export_groups([[{"reward": 1.0}]], "atif")
    assert (rows, skipped) == ([], {"neither a prompt nor an answer": 1})


def test_rows_without_a_score_are_exported(command: Callable[..., Ran], tmp_path: Path) -> None:
    """An export of trajectories needs no score, and says how many values are in `extra` alone."""
    row = rollout_row(0, 0, None)
    row["response"]["output"].append({"type": "web_search_call"})
    write_rows(tmp_path / "r.jsonl", [row])
    ran = command(
        "+recipe=atif", "+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=a.jsonl", script="ng_export_rollouts"
    )
    assert (ran.code, ran.averages["in_extra_alone"]) == (0, {"items of type web_search_call": 1}), ran.stderr
    assert "In extra alone: 1 items of type web_search_call" in ran.stdout
    [trajectory] = read_rows(tmp_path / "a.jsonl")
    assert (trajectory["session_id"], trajectory["trajectory_id"]) == ("r", "r:0:0")


def test_a_run_is_the_same_after_export_and_reading(command: Callable[..., Ran], tmp_path: Path) -> None:
    """The rows of a run have the same values after they were exported and read."""
    assert command(*EXAMPLE, "+num_repeats=2", "+output_jsonl_fpath=r.jsonl").code == 0
    export = ["+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=a.jsonl", "+recipe=atif"]
    assert command(*export, script="ng_export_rollouts").code == 0
    trajectories = read_rows(tmp_path / "a.jsonl")
    for trajectory in trajectories:
        check_trajectory(trajectory)
    assert list(map(row_of, trajectories)) == read_rows(tmp_path / "r.jsonl")
