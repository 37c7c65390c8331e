"""Rows of a recipe as trainers take them. Docs: docs/export.md lists the loader that each was checked against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ng_rollouts.chat import text_of
from ng_rollouts.errors import InputError
from ng_rollouts.export.messages import with_text_parts
from ng_rollouts.inputs.exported_task import exported_task
from ng_rollouts.jsonl import dumps
from ng_rollouts.types import Json

_MESSAGES = ("messages", "prompt", "completion", "chosen", "rejected", "label", "tools", "images")
_SHARES = ("mean_reward", "reward_variance", "pass_rate", "num_rollouts")

# the words by which LLaMA-Factory's templates find the reasoning in a text
_THOUGHT = "<think>\n{}\n</think>\n\n"

_HUMAN_ROLES = {"system": "system", "user": "human", "tool": "observation", "assistant": "gpt"}

_VERL_MESSAGES = [{"role": "string", "content": "string", "reasoning_content": "string"}]
VERL_SFT = {"messages": _VERL_MESSAGES, "extra_info": {"index": "int64", "row": "string"}}
VERL_RL = {
    "data_source": "string",
    "prompt": _VERL_MESSAGES,
    "images": [{"image": "string"}],
    "reward_model": {"style": "string", "ground_truth": "string"},
    "extra_info": {
        "index": "int64",
        **dict.fromkeys(("mean_reward", "reward_variance", "pass_rate"), "float64"),
        "num_rollouts": "int64",
        "task": "string",
    },
}
"""Columns of verl's Parquet files and their types."""


def unchanged(row: Json) -> Json:
    """The row as it is."""
    return row


def llama_factory_sft(row: Json) -> Json:
    """A conversation in LLaMA-Factory's format `sharegpt`."""
    return _sharegpt(row["messages"], row)


def llama_factory_kto(row: Json) -> Json:
    """A conversation with the label of its last message."""
    return {**_sharegpt([*row["prompt"], *row["completion"]], row), "kto_tag": row["label"]}


def llama_factory_dpo(row: Json) -> Json:
    """A conversation that ends with the user, and two answers."""
    answers = {name: _sharegpt_message(row[name][0]) for name in ("chosen", "rejected")}
    return {**_sharegpt(row["prompt"], row), **answers}


def nemo_rl_sft(row: Json) -> Json:
    """A conversation with the images in its messages."""
    images = ({"type": "image", "image": url} for url in row.get("images") or ())
    return _with_images(row, images)


def nemo_rl_dpo(row: Json) -> Json:
    """A context with two ranked completions; the lower rank is preferred."""
    ranked = [{"rank": rank, "completion": row[name]} for rank, name in enumerate(("chosen", "rejected"))]
    return {"context": row["prompt"], "completions": ranked, **_rest(row)}


def openrlhf_sft(row: Json) -> Json:
    """The messages before the answer, and the answer."""
    return {"input": row["messages"][:-1], "output": row["messages"][-1:], **_rest(row)}


def openrlhf_rl(row: Json) -> Json:
    """A prompt with its label."""
    task = exported_task(row)
    images = {"images": row["images"]} if row.get("images") else {}
    shares = {name: row[name] for name in (*_SHARES, "prompt_id", "_ng_task_index") if name in row}
    return {"input": row["prompt"], "label": expected_answer(task), "datasource": _source_of(task), **images, **shares}


def axolotl_sft(row: Json) -> Json:
    """A conversation with the images in its messages."""
    images = ({"type": "image", "base64": url.partition(",")[2]} for url in row.get("images") or ())
    return _with_images(row, images)


def axolotl_dpo(row: Json) -> Json:
    """The messages of the prompt, and two answers."""
    answers = {name: _text_message(row[name][0]) for name in ("chosen", "rejected")}
    return {"messages": list(map(_text_message, row["prompt"])), **answers, **_rest(row)}


def axolotl_kto(row: Json) -> Json:
    """A prompt and a completion as text, for the types `chatml.ultra` and `llama3.ultra`."""
    texts = [text_of(message.get("content")) for message in row["prompt"]]
    completion = text_of(row["completion"][0].get("content"))
    system = texts[0] if len(texts) > 1 else ""
    return {"system": system, "prompt": texts[-1], "completion": completion, "label": row["label"], **_rest(row)}


def verl_sft(row: Json) -> Json:
    """A conversation for verl's `MultiTurnSFTDataset`; all other fields are JSON text."""
    extra = {"index": _index_of(row), "row": _json(_rest(row))}
    return {"messages": list(map(_verl_message, row["messages"])), "extra_info": extra}


def verl_rl(row: Json) -> Json:
    """A prompt with its ground truth for verl's `RLHFDataset`; the task is JSON text."""
    task = exported_task(row)
    extra = {"index": _index_of(row), **{name: row[name] for name in _SHARES}, "task": _json(task)}
    return {
        "data_source": _source_of(task),
        "prompt": list(map(_verl_message, row["prompt"])),
        "images": [{"image": url} for url in row.get("images") or ()],
        "reward_model": {"style": "rule", "ground_truth": expected_answer(task)},
        "extra_info": extra,
    }


def expected_answer(task: Json) -> str | None:
    """The expected answer: a text as it is, anything else as JSON; None if there is none."""
    # most exports need no verifier
    from ng_rollouts.verifiers.builtin import ExpectedAnswer  # noqa: PLC0415

    try:
        value, texts = ExpectedAnswer().of(task), ExpectedAnswer().texts_of(task)
    except InputError:
        return None
    is_text = isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
    if not is_text:
        return _json(value)
    return texts[0] if len(texts) == 1 else _json(texts)


def _sharegpt(messages: list[Json], row: Json) -> Json:
    tools = _json(row["tools"]) if row.get("tools") else ""
    return {"conversations": list(map(_sharegpt_message, messages)), "tools": tools, **_rest(row)}


def _sharegpt_message(message: Json) -> Json:
    reasoning = message.get("reasoning_content")
    thought = _THOUGHT.format(reasoning) if reasoning else ""
    if calls := message.get("tool_calls"):
        functions = [{name: call["function"].get(name) for name in ("name", "arguments")} for call in calls]
        return {"from": "function_call", "value": thought + _json(functions)}
    return {"from": _HUMAN_ROLES[message["role"]], "value": thought + text_of(message.get("content"))}


def _text_message(message: Json) -> Json:
    return {"role": message["role"], "content": text_of(message.get("content"))}


def _verl_message(message: Json) -> Json:
    # verl replaces each `<image>` with the next image, which is what `text_of` makes of an image
    return {**_text_message(message), "reasoning_content": message.get("reasoning_content")}


def _with_images(row: Json, images: Iterator[Json]) -> Json:
    if not row.get("images"):
        return row
    messages = [_filled(message, images) for message in map(with_text_parts, row["messages"])]
    return {**{name: value for name, value in row.items() if name != "images"}, "messages": messages}


def _filled(message: Json, images: Iterator[Json]) -> Json:
    parts = [next(images) if part["type"] == "image" else part for part in message["content"]]
    return {**message, "content": parts}


def _rest(row: Json) -> Json:
    return {name: value for name, value in row.items() if name not in _MESSAGES}


def _index_of(row: Json) -> int:
    index = row.get("_ng_task_index")
    return index if isinstance(index, int) else 0


def _source_of(task: Json) -> str:
    """The name by which reward functions know the kind of a task: that of its data, or else of its agent."""
    agent = task.get("agent_ref")
    names = [task.get("data_source"), task.get("task_source"), agent.get("name") if isinstance(agent, dict) else None]
    return next((name for name in names if isinstance(name, str) and name), "ng_rollouts")


def _json(value: Any) -> str:
    return dumps(value).decode()
