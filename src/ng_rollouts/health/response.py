"""The rules about one response: what it says, how it ends, and whether its tools ran.

All are conservative: a rule finds nothing where its evidence is missing, or where an agent may mean it that way. An
agent without tools ends with a tool call, because the call is the answer. One with a tool `submit` ends with that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ng_rollouts.chat import reasoning_text, text_of
from ng_rollouts.chat_items import input_items, plain_answer
from ng_rollouts.health.checks import HAS_OUTPUT, LONG_ANSWER, PLAIN_ANSWER, REASONED, Check
from ng_rollouts.jsonl import loads
from ng_rollouts.reasoning import without_reasoning
from ng_rollouts.types import Json

LONG_ANSWER_CHARACTERS = 200
"""Answers of this length are not equal by chance. Letters of multiple choice and short numbers are."""

_CALLS = frozenset(("function_call", "custom_tool_call"))
_RESULTS = frozenset(("function_call_output", "custom_tool_call_output"))

_TOKEN_LIMITS = frozenset(("max_output_tokens", "max_tokens", "length", "context_length"))
_STEP_LIMITS = frozenset(("max_steps", "max_rollout_turns", "max_turns", "max_iterations"))

_FINAL_TOOL = re.compile(
    r"(?:^|[_.-])(?:submit|finish|final|answer|complete|done|terminate|exit|stop|end(?![a-z]))", re.IGNORECASE
)
"""Names of tools by which an agent ends a rollout on purpose."""

_ERROR_TEXT = re.compile(
    r"\s*(?:(?:error|exception)\s*(?:[:(\[]|$)|error (?:executing|calling|running|while|in|from|code)\b"
    r"|traceback \(most recent call last\))",
    re.IGNORECASE,
)

_LOOP_WINDOW = 20_000
"""Characters at the end of a text in which a loop is searched."""

_LOOP_TAIL = 32
"""Characters at the end of a text whose previous occurrence gives the length of the repeated passage."""

_LOOP_TIMES, _LOOP_CHARACTERS, _LOOP_OF_SIGNS = 8, 400, 4000
"""A loop is a passage this many times, and this many characters in total. A passage without letters may be a ruler or a
grid of numbers, so it has to be longer."""


class Transcript(NamedTuple):
    """The parts of an output that the rules look at.

    Attributes:
        messages: number of assistant messages.
        message: the last of them.
        end: index of the first call of those that end the output; the number of items if none does.
        last: type of the last item that is not reasoning; empty if there is none.
        answer: the text of the last message, without reasoning and surrounding white space.
        thinks: whether the last message has reasoning in its text.
        calls, results: tool calls, and the outputs of tools.
        reasoning: the last reasoning item.
        others: number of items of other types, such as searches of the server.
    """

    messages: int
    message: Json | None
    end: int
    last: str
    answer: str
    thinks: bool
    calls: Sequence[tuple[int, Json]] = ()
    results: Sequence[Json] = ()
    reasoning: Json | None = None
    others: int = 0


def transcript_of(output: list[Any]) -> Transcript:
    """The parts of an output."""
    if (text := plain_answer(output)) is not None:
        return Transcript(1, output[0], 1, "message", *_answer(output[0], text))
    calls: list[tuple[int, Json]] = []
    results: list[Json] = []
    message = reasoning = None
    messages = others = end = 0
    last = ""
    for index, item in enumerate(_items(output)):
        kind = item.get("type") or "message"
        if kind == "reasoning":
            reasoning = item
            end = index + 1
            continue
        last = kind
        if kind in _CALLS:
            calls.append((index, item))
            continue
        end = index + 1
        if kind == "message":
            if item.get("role", "assistant") == "assistant":
                messages += 1
                message = item
        elif kind in _RESULTS:
            results.append(item)
        else:
            others += 1
    answer, thinks = ("", False) if message is None else _answer(message, _message_text(message))
    return Transcript(messages, message, end, last, answer, thinks, calls, results, reasoning, others)


def response_findings(response: Json, parts: Transcript, *, is_rewarded: bool) -> int:
    """The mask of findings and facts about a response with an output.

    Args:
        is_rewarded: whether the rollout has a reward above the lowest. Then its end was probably meant.
    """
    mask, answer = HAS_OUTPUT, parts.answer
    details = response.get("incomplete_details")
    is_complete = not details and response.get("status") != "incomplete"
    if not is_complete:
        mask |= _limit(details)
    elif _reports_no_tokens(response.get("usage")):
        mask |= Check.NO_TOKENS.bit
    if parts.calls or parts.results:
        mask |= _tool_findings(parts, is_complete=is_complete, is_rewarded=is_rewarded)
    elif parts.message is not None and parts.messages == 1 and not parts.others and answer:
        mask |= PLAIN_ANSWER
        if parts.reasoning is not None or parts.thinks:
            mask |= REASONED
    if not answer:
        mask |= _without_answer(parts, is_complete=is_complete)
    if len(answer) >= LONG_ANSWER_CHARACTERS:
        mask |= LONG_ANSWER
    # A table or an array may repeat itself, and its reward shows that it was meant.
    if not is_rewarded and ends_in_loop(answer or (reasoning_text(parts.reasoning) if parts.reasoning else "")):
        mask |= Check.REPETITION.bit
    return mask


def _answer(message: Json, text: str) -> tuple[str, bool]:
    """The text of a message without its reasoning, and whether it has some."""
    # One character is found much faster than several, and few long texts have it.
    thinks = ">" in text and "think>" in text
    if thinks:
        text = text_of(without_reasoning(message).get("content"))
    return text.strip(), thinks


def ends_in_loop(text: str) -> bool:
    """True for a text that ends in a loop.

    Takes time proportional to the length of the text, at most 20,000 characters of it.
    """
    length = len(text)
    if length < _LOOP_CHARACTERS:
        return False
    # The previous occurrence of the end of the text is one passage before it.
    previous = text.rfind(text[-_LOOP_TAIL:], max(0, length - _LOOP_WINDOW), length - 1)
    if previous < 0:
        return False
    period = length - _LOOP_TAIL - previous
    passage = text[-period:]
    needed = _LOOP_CHARACTERS if any(map(str.isalpha, passage)) else _LOOP_OF_SIGNS
    times = max(_LOOP_TIMES, -(-needed // period))
    return length >= times * period and text.endswith(passage * times)


def is_error(output: Any) -> bool:
    """True for an object with `error`, and for a text that begins as errors do."""
    text = output if isinstance(output, str) else text_of(output)
    if text.lstrip().startswith("{"):
        return '"error"' in text and _has_error(text)
    return _ERROR_TEXT.match(text) is not None


def _has_error(text: str) -> bool:
    try:
        value = loads(text.encode(errors="replace"))
    except ValueError:
        return False
    return isinstance(value, dict) and bool(value.get("error"))


def _items(output: list[Any]) -> list[Json]:
    """The items of an output. An agent may return chat messages, whose calls and results have no type."""
    for item in output:
        if type(item) is not dict or not item.get("type") or "tool_calls" in item:
            return input_items(output)
    return output


def _message_text(message: Json) -> str:
    return text_of(message.get("content"))


def _limit(details: Any) -> int:
    reason = details.get("reason") if isinstance(details, dict) else None
    if not isinstance(reason, str):
        return 0
    return Check.TOKEN_LIMIT.bit if reason in _TOKEN_LIMITS else Check.STEP_LIMIT.bit if reason in _STEP_LIMITS else 0


def _reports_no_tokens(usage: Any) -> bool:
    # Servers that do not count report 0 input tokens as well.
    return isinstance(usage, dict) and usage.get("output_tokens") == 0 and usage.get("input_tokens") != 0


def _without_answer(parts: Transcript, *, is_complete: bool) -> int:
    """The findings about a response whose last message has no text, or that has no message."""
    has_text = parts.message is not None and bool(_message_text(parts.message).strip())
    mask = 0
    if is_complete and not has_text and parts.last in ("message", ""):
        mask |= Check.EMPTY.bit
    if not (parts.calls or parts.results or parts.others) and (has_text or parts.reasoning is not None):
        mask |= Check.ONLY_REASONING.bit
    return mask


def _tool_findings(parts: Transcript, *, is_complete: bool, is_rewarded: bool) -> int:
    mask = 0
    # Without any output, the agent does not run tools: the call is the answer.
    if not parts.results:
        return mask
    # One error, with a reward nevertheless, is part of a good rollout.
    if (len(parts.results) > 1 or not is_rewarded) and all(is_error(each.get("output")) for each in parts.results):
        mask |= Check.TOOLS_ALWAYS_FAILED.bit
    if not is_complete:  # the last calls were cut off
        return mask
    if _has_call_without_output(parts):
        mask |= Check.TOOL_NEVER_RAN.bit
    if parts.last not in ("message", "") and not is_rewarded and not _ends_by_tool(parts):
        mask |= Check.ENDED_ON_TOOL_CALL.bit
    return mask


def _has_call_without_output(parts: Transcript) -> bool:
    results = {each.get("call_id") for each in parts.results}
    # The calls at the end were not run, because the rollout ended there. Calls without an id cannot be distinguished.
    return any(call.get("call_id") and call["call_id"] not in results for at, call in parts.calls if at < parts.end)


def _ends_by_tool(parts: Transcript) -> bool:
    """True for an output that ends with text, or with a tool that ends rollouts."""
    if parts.last not in _CALLS and parts.last not in _RESULTS:
        return True
    return not parts.calls or _FINAL_TOOL.search(str(parts.calls[-1][1].get("name"))) is not None
