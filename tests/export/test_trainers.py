"""Files in the form of each trainer: nothing of a rollout is lost, or the rollout is counted as left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ng_rollouts.export.config import FORMATS
from ng_rollouts.export.trainer_rows import expected_answer
from tests.conftest import Ran, read_rows
from tests.export.helpers import export_groups
from tests.rollout_files import rollout_row, write_rows

Json = dict[str, Any]
Command = Callable[..., Ran]

IMAGE = "data:image/png;base64,iVBORw0KGgo="
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
TEXTS = st.sampled_from(["2 + 2?", "four", " so <image> it is", "<think>hm</think>4", "a\nb", "\ud83d\ude00"])
CASES = [(trainer, recipe) for trainer, recipes in FORMATS.items() for recipe in recipes]


def _message(role: str, content: Any) -> Json:
    return {"type": "message", "role": role, "content": content}


def _answer(text: str) -> Json:
    return _message("assistant", [{"type": "output_text", "text": text}])


def _thought(text: str) -> Json:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}


def _call(number: int, argument: int) -> Json:
    return {"type": "function_call", "call_id": f"c{number}", "name": "add", "arguments": json.dumps({"a": argument})}


def _result(number: int, text: str) -> Json:
    return {"type": "function_call_output", "call_id": f"c{number}", "output": text}


USERS = st.one_of(
    TEXTS,
    st.lists(
        st.one_of(
            TEXTS.map(lambda text: {"type": "input_text", "text": text}),
            st.just({"type": "input_image", "image_url": IMAGE}),
        ),
        min_size=1,
        max_size=3,
    ),
).map(lambda content: _message("user", content))


@st.composite
def _turns(draw: st.DrawFn) -> list[Json]:
    """What the assistant does until it answers: thoughts, calls with their results, and texts."""
    items: list[Json] = []
    for _ in range(draw(st.integers(0, 2))):
        items += [_thought(draw(TEXTS))] * draw(st.integers(0, 1)) + [_answer(draw(TEXTS))] * draw(st.integers(0, 1))
        numbers = [len(items) + number for number in range(draw(st.integers(1, 2)))]
        items += [_call(number, number) for number in numbers]
        items += [_result(number, draw(TEXTS)) for number in numbers]
    return [*items, *draw(st.lists(TEXTS.map(_thought), max_size=1)), _answer(draw(TEXTS))]


@st.composite
def rollouts(draw: st.DrawFn) -> list[Json]:
    """Two rollouts of a task, with any of: a system message, several turns, images, tools, reasoning."""
    system = draw(st.lists(TEXTS.map(lambda text: _message("system", text)), max_size=1))
    turns = draw(st.lists(st.tuples(USERS, TEXTS.map(_answer)), max_size=1))
    prompt = [*system, *(item for turn in turns for item in turn), draw(USERS)]
    tools = {"tools": [TOOL]} if draw(st.booleans()) else {}
    fields: Json = draw(
        st.sampled_from(
            [{}, {"expected_answer": "4"}, {"expected_answer": ["4", "four"]}, {"agent_ref": {"name": "a"}}]
        )
    )
    return [
        rollout_row(
            0,
            index,
            1.0 - index,
            response={"output": draw(_turns())},
            responses_create_params={"input": prompt, **tools},
            **fields,
        )
        for index in range(2)
    ]


def plain(messages: list[Json], images: list[str]) -> list[Any]:
    """Messages of the default rows as tuples: role, text with its images, reasoning, calls."""
    urls = iter(images)
    return [
        (
            message["role"],
            _text(message.get("content"), urls),
            message.get("reasoning_content") or "",
            [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()],
        )
        for message in messages
    ]


def _text(content: Any, urls: Any) -> list[str]:
    """The texts and images of a content, adjacent texts as one."""
    found: list[str] = []
    for part in content if isinstance(content, list) else [{"type": "text", "text": content or ""}]:
        if part["type"] == "image":
            address = part.get("image") or (
                f"data:image/png;base64,{part['base64']}" if "base64" in part else next(urls)
            )
            found += [address, ""]
        else:
            found[-1:] = ["".join(found[-1:]) + part["text"]]
    return [text for text in found if text]


def sharegpt(messages: list[Json]) -> list[Any]:
    """Messages of LLaMA-Factory as its templates read them."""
    roles = {"human": "user", "gpt": "assistant", "observation": "tool", "function_call": "assistant"}
    found = []
    for message in messages:
        value, thought = message["value"], ""
        if value.startswith("<think>\n"):
            thought, _, value = value.removeprefix("<think>\n").partition("\n</think>\n\n")
        calls = json.loads(value) if message["from"] == "function_call" else []
        text = "" if calls else value
        found.append(
            (
                roles.get(message["from"], message["from"]),
                [text] if text else [],
                thought,
                [tuple(call.values()) for call in calls],
            )
        )
    return found


def with_tags(messages: list[Json], images: list[Json]) -> list[Json]:
    """Messages of verl, with its tags as the images that it puts in their place."""
    urls = iter([image["image"] for image in images])
    found = []
    for message in messages:
        parts: list[Json] = []
        for number, text in enumerate(message["content"].split("<image>") if images else [message["content"]]):
            if number:
                parts.append({"type": "image", "image": next(urls)})
            parts.append({"type": "text", "text": text})
        found.append({**message, "content": parts})
    return found


def conversations(trainer: str | None, recipe: str, row: Json) -> list[list[Any]]:
    """The conversations in a row: one, or that of the chosen and that of the rejected answer of a pair."""
    images = row.get("images") or []
    match trainer, recipe:
        case "llama_factory", "dpo":
            return [sharegpt([*row["conversations"], row[name]]) for name in ("chosen", "rejected")]
        case "llama_factory", _:
            return [sharegpt(row["conversations"])]
        case "nemo_rl", "dpo":
            ranked = sorted(row["completions"], key=lambda each: each["rank"])
            return [plain([*row["context"], *each["completion"]], images) for each in ranked]
        case "openrlhf", "sft" | "rl":
            return [plain([*row["input"], *row.get("output", [])], images)]
        case "axolotl", "dpo":
            return [plain([*row["messages"], row[name]], images) for name in ("chosen", "rejected")]
        case "axolotl", "kto":
            system = [{"role": "system", "content": row["system"]}] if row["system"] else []
            texts = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
            return [plain([*system, *texts], images)]
        case "verl", _:
            return [plain(with_tags(row.get("messages") or row["prompt"], images), [])]
        case _, "dpo":
            return [plain([*row["prompt"], *row[name]], images) for name in ("chosen", "rejected")]
    return [plain(row.get("messages") or [*row["prompt"], *row.get("completion", [])], images)]


@pytest.mark.parametrize(("trainer", "recipe"), CASES)
@settings(max_examples=60)
@given(group=rollouts())
def test_a_row_has_all_of_a_rollout_or_the_rollout_is_counted(trainer: str, recipe: str, group: list[Json]) -> None:
    """The messages of a trainer's row can be read back as those of the default row; else the reason names the trainer."""
    expected, _ = export_groups([group], recipe)
    rows, skipped = export_groups([group], recipe, format=trainer)
    found = [each for row in rows for each in conversations(trainer, recipe, row)]
    wanted = [each for row in expected for each in conversations(None, recipe, row)]
    assert all(each in wanted for each in found)
    by_trainer = sum(number for reason, number in skipped.items() if f": {trainer} has no place" in reason)
    if recipe == "dpo":
        assert len(rows) == len(expected) or by_trainer
    else:
        assert len(rows) + by_trainer == len(expected)


@pytest.mark.parametrize(("trainer", "recipe"), CASES)
def test_every_format_takes_a_plain_rollout(trainer: str, recipe: str) -> None:
    """A question with an answer, an expected answer and an agent has a place in each format."""
    group = [rollout_row(0, n, 1.0 - n, expected_answer="4", agent_ref={"name": "math"}) for n in range(2)]
    rows, skipped = export_groups([group], recipe, format=trainer)
    assert rows
    assert not skipped.total()


QUESTION = {"role": "user", "content": "question 0"}
SHARES = {"mean_reward": 0.5, "pass_rate": 0.5, "num_rollouts": 2}


@pytest.mark.parametrize(
    ("trainer", "recipe", "wanted"),
    [
        (
            "llama_factory",
            "dpo",
            {
                "conversations": [{"from": "human", "value": "question 0"}],
                "tools": "",
                "chosen": {"from": "gpt", "value": "answer 0"},
                "rejected": {"from": "gpt", "value": "answer 1"},
            },
        ),
        (
            "nemo_rl",
            "dpo",
            {
                "context": [QUESTION],
                "completions": [
                    {"rank": rank, "completion": [{"role": "assistant", "content": f"answer {rank}"}]}
                    for rank in (0, 1)
                ],
            },
        ),
        ("openrlhf", "rl", {"input": [QUESTION], "label": "4", "datasource": "math", **SHARES}),
        (
            "verl",
            "rl",
            {
                "data_source": "math",
                "prompt": [{**QUESTION, "reasoning_content": None}],
                "images": [],
                "reward_model": {"style": "rule", "ground_truth": "4"},
            },
        ),
        (
            "axolotl",
            "dpo",
            {
                "messages": [QUESTION],
                "chosen": {"role": "assistant", "content": "answer 0"},
                "rejected": {"role": "assistant", "content": "answer 1"},
            },
        ),
    ],
)
def test_keys_of_a_row_are_those_of_the_loader(trainer: str, recipe: str, wanted: Json) -> None:
    """The keys and their forms are those of the loaders that docs/export.md lists."""
    group = [rollout_row(0, n, 1.0 - n, expected_answer="4", agent_ref={"name": "math"}) for n in range(2)]
    (row,), _ = export_groups([group], recipe, format=trainer)
    assert {name: row[name] for name in wanted} == wanted
    if trainer == "verl":
        assert json.loads(row["extra_info"]["task"])["expected_answer"] == "4"


def test_reasoning_and_calls_are_texts_for_llama_factory() -> None:
    """Reasoning is in the words of its templates, calls are a list in JSON, and schemas of tools are text."""
    row = rollout_row(0, 0, 1.0, response={"output": [_thought("hm"), _call(0, 1), _result(0, "2"), _answer("two")]})
    row["responses_create_params"]["tools"] = [TOOL]
    (exported,), _ = export_groups([[row]], "sft", format="llama_factory")
    assert exported["conversations"] == [
        {"from": "human", "value": "question 0"},
        {"from": "function_call", "value": '<think>\nhm\n</think>\n\n[{"name":"add","arguments":{"a":1}}]'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "two"},
    ]
    assert json.loads(exported["tools"])[0]["function"]["name"] == "add"


@pytest.mark.parametrize(
    ("trainer", "recipe", "change", "reason"),
    [
        ("openrlhf", "sft", {"tools": [TOOL]}, "tools: openrlhf has no place for that"),
        ("axolotl", "dpo", {"tools": [TOOL]}, "tools: axolotl has no place for that"),
        ("verl", "sft", {"tools": [TOOL]}, "tools: verl has no place for that"),
        (
            "axolotl",
            "kto",
            {"input": [QUESTION, {"role": "assistant", "content": "a"}, QUESTION]},
            "prompts of several turns: axolotl has no place for that",
        ),
        (
            "llama_factory",
            "sft",
            {"input": [QUESTION, QUESTION]},
            "messages of user and assistant that do not alternate: llama_factory has no place for that",
        ),
        ("verl", "rl", {}, "groups with no expected answer: verl has no place for that"),
        ("nemo_rl", "rl", {}, "groups with no request, or no agent with a name: nemo_rl has no place for that"),
    ],
)
def test_what_a_trainer_has_no_place_for_is_counted(trainer: str, recipe: str, change: Json, reason: str) -> None:
    """The reason says what it is and which trainer."""
    group = [rollout_row(0, n, 1.0 - n) for n in range(2)]
    for row in group:
        row["responses_create_params"] |= change
    rows, skipped = export_groups([group], recipe, format=trainer)
    assert not rows
    assert skipped[reason] == (1 if recipe == "rl" else 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("+recipe=kto", "+format=verl"), "format=verl has recipe=sft or rl, not kto"),
        (("+recipe=rl", "+format=llama_factory"), "format=llama_factory has recipe=sft or dpo or kto, not rl"),
        (("+recipe=atif", "+format=trl"), "format=trl has recipe=sft or dpo or kto or rl, not atif"),
        (("+recipe=sft", "+format=verl"), "format=verl reads a file by its ending: name it .parquet, not out.jsonl"),
        (
            ("+recipe=sft", "+format=unsloth"),
            "format must be one of trl, verl, nemo_rl, openrlhf, llama_factory, axolotl",
        ),
    ],
)
def test_a_trainer_without_the_recipe_is_an_error(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """The message names the recipes that the trainer has, or the ending of its files."""
    write_rows(tmp_path / "r.jsonl", [rollout_row(0, 0, 1.0)])
    ran = command(
        *arguments, "+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=out.jsonl", script="ng_export_rollouts"
    )
    assert ran.code == 2
    assert message in ran.stderr


def test_llama_factory_gets_entries_for_its_dataset_info(command: Command, tmp_path: Path) -> None:
    """The companion file has an entry for each file of the export, with its columns."""
    write_rows(tmp_path / "r.jsonl", [rollout_row(task, n, 1.0 - n) for task in range(4) for n in range(2)])
    files = ("+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=out.jsonl", "+validation_fraction=0.5")
    for _ in range(2):
        assert command("+recipe=dpo", "+format=llama_factory", *files, script="ng_export_rollouts").code == 0
    info = json.loads((tmp_path / "out_dataset_info.json").read_text())
    assert {name: entry["file_name"] for name, entry in info.items()} == {
        "out": "out.jsonl",
        "out_validation": "out_validation.jsonl",
    }
    assert info["out"]["ranking"] is True
    assert set(info["out"]["columns"].values()) <= read_rows(tmp_path / "out.jsonl")[0].keys()
    assert (tmp_path / "out_dataset_info.json.1").exists()


@pytest.mark.parametrize("recipe", ["sft", "rl"])
def test_verl_gets_parquet(command: Command, tmp_path: Path, recipe: str) -> None:
    """The columns have their types, also if the first rows have no images or reasoning; both parts are Parquet."""
    import pyarrow.parquet as pq

    thinks = {"output": [_thought("hm \ud800"), _answer("4")]}
    rows = [rollout_row(task, 0, 1.0, "\ud800", expected_answer=task) for task in range(1, 1200)]
    write_rows(tmp_path / "r.jsonl", [*rows, {**rollout_row(0, 0, 1.0, expected_answer="4"), "response": thinks}])
    files = ("+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=out.parquet", "+validation_fraction=0.5")
    assert command(f"+recipe={recipe}", "+format=verl", *files, script="ng_export_rollouts").code == 0
    found = [
        row for name in ("out", "out_validation") for row in pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
    ]
    if recipe == "sft":  # a rollout with reasoning has no place
        assert len(found) == 1199
        last = next(row for row in found if row["extra_info"]["index"] == 1)["messages"][-1]
        assert last == {"role": "assistant", "content": "\\ud800", "reasoning_content": None}
    else:
        assert len(found) == 1200
        truths = {row["extra_info"]["index"]: row["reward_model"]["ground_truth"] for row in found}
        assert truths == {0: "4", **{task: str(task) for task in range(1, 1200)}}


def test_prompts_with_tools_have_a_note(command: Command, tmp_path: Path) -> None:
    """Trainers that take tools as code get the prompts, and the command says what is missing."""
    row = rollout_row(0, 0, 1.0, expected_answer="4")
    row["responses_create_params"]["tools"] = [TOOL]
    write_rows(tmp_path / "r.jsonl", [row])
    files = ("+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=out.parquet")
    ran = command("+recipe=rl", "+format=verl", *files, script="ng_export_rollouts")
    assert "note: 1 prompts with tools, which the rows do not offer: define them in the file of" in ran.stderr


@given(texts=st.lists(st.sampled_from(["4", "four", "a, b", "7 #### 8"]), min_size=1, max_size=3))
@example(texts=["x"])
def test_several_expected_answers_are_a_list_in_one_text(texts: list[str]) -> None:
    """One answer is its text, and GSM8K's is the result; several are JSON."""
    answers = [text.rpartition("#### ")[2] for text in texts]
    found = expected_answer({"expected_answer": texts if len(texts) > 1 else texts[0]})
    assert found is not None
    assert (json.loads(found) if len(texts) > 1 else [found]) == answers
