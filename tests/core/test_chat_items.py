"""Chat messages in the forms of many servers, as items and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.chat import chat_input, chat_output
from ng_rollouts.models.from_chat_completions import to_response
from ng_rollouts.models.to_chat_completions import to_chat_request
from ng_rollouts.models.to_responses import to_responses_request
from tests.models.helpers import completion_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
FIELDS = (
    "reasoning reasoning_content thinking reasoning_text signature thought_signature reasoning_opaque reasoning_signature "
    "encrypted_content"
)
BLOCKS = "reasoning_details thinking_blocks extra_content provider_specific_fields"
THINKING = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}], "closed": True},
    {"type": "thinking", "thinking": "", "signature": "s"},
    {"type": "redacted_thinking", "data": "e"},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
    {"type": "reasoning_text", "text": "Hm."},
    {"type": "thought", "text": "Hm."},
]


@st.composite
def assistant_messages(draw: st.DrawFn) -> dict[str, Any]:
    """Assistant messages with reasoning and calls under any of the names that servers use."""
    message: dict[str, Any] = {"role": "assistant", **draw(st.dictionaries(st.sampled_from(FIELDS.split()), TEXTS))}
    message |= draw(st.dictionaries(st.sampled_from(BLOCKS.split()), st.just([{"data": "e"}])))
    text, thinking = draw(st.none() | TEXTS), draw(st.lists(st.sampled_from(THINKING), max_size=2))
    message["content"] = text if not thinking else [*thinking, *([{"type": "text", "text": text}] if text else [])]
    calls = []
    for number in range(draw(st.integers(0 if text else 1, 2))):
        function = {"name": "f", "arguments": "{}", **draw(st.sampled_from([{}, {"thought_signature": "s"}]))}
        own = draw(st.sampled_from([{}, {"extra_content": {"google": {"thought_signature": "s"}}}]))
        calls.append({"id": f"c{number}", "type": "function", "function": function, **own})
    return message | ({"tool_calls": calls} if calls else {}) | draw(st.sampled_from([{}, {"refusal": "no"}]))


@given(assistant_messages())
def test_assistant_message_is_sent_back_as_it_came(message: dict[str, Any]) -> None:
    """A message of a reply, or of a prompt, goes to the server unchanged: names, signatures and encrypted parts."""
    assert to_chat_request({"input": [message]})["messages"] == [message]
    items = to_response(completion_of(message), {})["output"]
    assert to_chat_request({"input": items})["messages"] == [message]


@given(assistant_messages())
def test_messages_of_a_prompt_are_items_for_responses(message: dict[str, Any]) -> None:
    """A `/responses` request has items without fields of Chat Completions, and as many calls as the message."""
    items = to_responses_request({"input": [message]})["input"]
    known = {
        "reasoning": {"type", "id", "summary"},
        "message": {"type", "role", "content"},
        "function_call": {"type", "call_id", "name", "arguments"},
    }
    assert all(item.keys() <= known[item.get("type", "message")] for item in items)
    assert sum(item.get("type") == "function_call" for item in items) == len(message.get("tool_calls", []))


REASONS = [
    {"reasoning": "Hm."},
    {"reasoning_content": "Hm.", "reasoning": "Hm."},
    {"reasoning_content": [{"type": "text", "text": "H"}, {"type": "text", "text": "m."}]},
    {"reasoning": {"content": "Hm.", "tokens": 3}},
    {"reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "signature": "s"}]},
    {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]},
    *({"content": [part, {"type": "text", "text": "4"}]} for part in (THINKING[0], *THINKING[3:])),
    {"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "4"}], "reasoning_content": "Hm."},
]


@pytest.mark.parametrize("fields", REASONS, ids=str)
def test_reasoning_in_any_form_is_reasoning_content(fields: Any) -> None:
    """Prompts and outputs as chat messages have the text of the reasoning once, and not in the content."""
    message = {"role": "assistant", "content": "4", **fields}
    plain = [{"role": "assistant", "content": "4", "reasoning_content": "Hm."}]
    assert chat_input({"input": [message]}) == plain
    assert chat_output(to_response(completion_of(message), {})) == plain


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
TEXT = {"type": "text", "text": "4"}


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"content": ["4", "2"]}, "42"),
        ({"content": TEXT}, "4"),
        ({"content": [TEXT, TEXT]}, "44"),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, "no"),
        ({"content": [TEXT, {"type": "refusal", "refusal": "no"}]}, "4no"),
        ({"content": None, "refusal": "no"}, "no"),
        ({"content": [TEXT, IMAGE]}, "4<image>"),
        ({"content": "4", "images": [IMAGE]}, "4<image>"),
        ({"content": None, "audio": {"id": "a", "data": "AA==", "transcript": "four"}}, "four"),
    ],
    ids=str,
)
def test_content_in_any_form_is_kept(fields: Any, content: str) -> None:
    """Lists of texts, refusals, images and transcripts are part of the response and of its chat message."""
    response = to_response(completion_of(fields), {})
    assert chat_output(response) == [{"role": "assistant", "content": content}]
    for part in fields.get("images", []):
        assert part in response["output"][-1]["content"]


def test_annotations_are_those_of_the_text() -> None:
    """Citations are in the form of the Responses API, and audio goes back by its id."""
    citation = {"type": "url_citation", "url_citation": {"url": "u", "title": "t"}}
    (item,) = to_response(completion_of({"content": "4", "annotations": [citation]}), {})["output"]
    assert item["content"][0]["annotations"] == [{"type": "url_citation", "url": "u", "title": "t"}]
    audio = {"id": "a", "data": "AA==", "transcript": "four"}
    items = to_response(completion_of({"content": None, "audio": audio}), {})["output"]
    assert to_chat_request({"input": items})["messages"][0]["audio"] == {"id": "a"}
    assert audio in [item.get("message_fields", {}).get("audio") for item in items]


@pytest.mark.parametrize(
    ("message", "name", "arguments"),
    [
        ({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}]}, "f", '{"a":1}'),
        ({"tool_calls": [{"function": {"name": "f", "arguments": None}}]}, "f", "{}"),
        ({"tool_calls": {"id": "c", "function": {"name": "f", "arguments": "{}"}}}, "f", "{}"),
        ({"tool_calls": [{"id": "c", "type": "function", "name": "f", "arguments": "{}"}]}, "f", "{}"),
        ({"tool_calls": [{"id": 0, "function": {"name": None, "arguments": "{}"}}]}, "", "{}"),
        (
            {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "ls"}}]},
            "f",
            '{"input":"ls"}',
        ),
        ({"function_call": {"name": "f", "arguments": '{"a": 2}'}}, "f", '{"a": 2}'),
        ({"content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]}, "f", '{"a":1}'),
    ],
    ids=str,
)
def test_call_in_any_form_is_a_function_call(message: Any, name: str, arguments: str) -> None:
    """A call may be in a legacy field, in the content or without `function`, with arguments of any type or none."""
    (item,) = to_response(completion_of({"content": None, **message}), {})["output"]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", name, arguments)
    assert item["call_id"]


def test_call_of_another_type_is_kept_beside_the_text() -> None:
    """A call that no item can hold is kept as it came, and is sent back."""
    message = {
        "role": "assistant",
        "content": "hi",
        "tool_calls": [{"id": "c", "type": "search", "search": {"q": "x"}}],
    }
    items = to_response(completion_of(message), {})["output"]
    assert [item["type"] for item in items] == ["message", "search"]
    assert to_chat_request({"input": items})["messages"] == [message]


def test_unknown_fields_of_a_reply_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A field that neither the response nor the next request has is not lost without a warning."""
    for _ in range(2):
        to_response(completion_of({"content": "hi", "a_new_field": 1, "tool_calls": [], "function_call": None}), {})
    assert capsys.readouterr().err.count("a_new_field") == 1


def test_unknown_content_of_a_reply_is_kept_and_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A part of a new type is in the response and goes back, and a warning says that messages of text lack it."""
    message = {"role": "assistant", "content": [TEXT, {"type": "a_new_part", "x": 1}]}
    for _ in range(2):
        items = to_response(completion_of(message), {})["output"]
    assert to_chat_request({"input": items})["messages"] == [message]
    assert capsys.readouterr().err.count("a_new_part") == 1


def test_chat_messages_in_an_agents_output_are_converted() -> None:
    """Agent servers may put chat messages into the output of a response."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    output = [
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
        {"role": "assistant", "content": "1"},
    ]
    assert chat_output({"output": output}) == output


def test_chat_messages_of_a_prompt_are_converted_for_both_apis() -> None:
    """A prompt may have calls and results in the form of Chat Completions, and in its form before `tool_calls`."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    prompt = [
        {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image_url", "image_url": {"url": "u"}}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
        {"role": "assistant", "content": None, "function_call": {"name": "g", "arguments": "{}"}},
        {"role": "function", "name": "g", "content": "2"},
    ]
    assert to_responses_request({"input": prompt})["input"] == [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "q"}, {"type": "input_image", "image_url": "u"}],
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"type": "function_call", "call_id": "function_call_3", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "function_call_3", "output": "2"},
    ]
    legacy = {"id": "function_call_3", "type": "function", "function": {"name": "g", "arguments": "{}"}}
    assert to_chat_request({"input": prompt})["messages"] == [
        *prompt[:3],
        {"role": "assistant", "content": None, "tool_calls": [legacy]},
        {"role": "tool", "tool_call_id": "function_call_3", "name": "g", "content": "2"},
    ]


def test_instructions_may_be_a_list_of_messages() -> None:
    """Instructions that are items, as in a Response, come before the input in both APIs."""
    first, question = {"role": "system", "content": "short"}, {"role": "user", "content": "q"}
    params = {"instructions": [first], "input": "q"}
    assert to_chat_request(params) == {"messages": [first, question]}
    assert to_responses_request(params) == {"input": [first, question]}


@pytest.mark.parametrize("arguments", ['{"a": 1,', "[1]", "null", '"{}"', "", '{"a": NaN}'])
def test_arguments_are_sent_as_a_json_object(arguments: str) -> None:
    """Servers refuse a conversation whose earlier arguments they cannot parse; chat messages keep what was written."""
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments}
    (message,) = to_chat_request({"input": [call]})["messages"]
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"
    assert to_responses_request({"input": [call]})["input"][0]["arguments"] == "{}"
    kept = chat_output({"output": [call]})[0]["tool_calls"][0]["function"]["arguments"]
    assert kept == arguments or json.loads(kept) == {}
