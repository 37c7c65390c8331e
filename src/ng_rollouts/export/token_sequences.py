"""The tokens of a rollout as sequences to train on, as the model server counted and sampled them.

No text is encoded again: every id, and every log probability, is one that the server sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ng_rollouts.types import Json

SAMPLED_CHANGED = "sampled tokens encoded differently"
CONTEXT_CHANGED = "prompt or tool results encoded differently"
SHORTER = "prompt shorter than the turns before it"

_PROMPT, _SAMPLED, _LOG_PROBS = "prompt_token_ids", "generation_token_ids", "generation_log_probs"
_RESULTS = ("function_call_output", "custom_tool_call_output")

_MAX_ID = 2**31 - 1
"""Token ids are signed integers of 32 bits in trainers."""

_LARGEST, _LOWEST = 1e-5, -3.4e38
"""Log probabilities may exceed 0 by rounding. The lowest value is that of a float of 32 bits."""


class UnusableTokensError(ValueError):
    """A rollout whose tokens cannot be trained on. The message is the reason, as a noun phrase for the summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTurn:
    """One call of the model: all ids of its prompt, the ids sampled, and the log probability of each of these."""

    prompt: list[int]
    sampled: list[int]
    log_probs: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """The tokens of one or more turns, of which each begins with all tokens of those before it.

    Attributes:
        prompt_ids: the ids before the first sampled token.
        response_ids: the ids after them: sampled tokens, and what the prompts of later turns add.
        loss_mask: 1 for each sampled token of `response_ids`, 0 for the others.
        logprobs: the log probability of each sampled token, 0.0 for the others.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    loss_mask: list[int]
    logprobs: list[float]

    @classmethod
    def of(cls, turn: ModelTurn) -> TokenSequence:
        """The sequence of one turn."""
        sequence = cls(prompt_ids=turn.prompt, response_ids=[], loss_mask=[], logprobs=[])
        sequence.extend(turn)
        return sequence

    @property
    def ids(self) -> list[int]:
        """All ids, in their order."""
        return self.prompt_ids + self.response_ids

    def extend(self, turn: ModelTurn) -> None:
        """Append a turn whose prompt begins with `ids`."""
        added = turn.prompt[len(self.prompt_ids) + len(self.response_ids) :]
        self.response_ids.extend(added + turn.sampled)
        self.loss_mask.extend([0] * len(added) + [1] * len(turn.sampled))
        self.logprobs.extend([0.0] * len(added) + turn.log_probs)

    def drift_of(self, prompt: list[int]) -> str | None:
        """Why a prompt does not begin with `ids`, as a noun phrase; None if it does."""
        before = self.ids
        if prompt[: len(before)] == before:
            return None
        pairs = zip(before, prompt, strict=False)
        place = next((number for number, (one, other) in enumerate(pairs) if one != other), None)
        if place is None:
            return SHORTER
        place -= len(self.prompt_ids)
        return SAMPLED_CHANGED if place >= 0 and self.loss_mask[place] else CONTEXT_CHANGED


def has_token_ids(output: Any) -> bool:
    """True if an item of a response's output has token ids."""
    return any(map(_has_ids, _items(output)))


def turns_of(output: Any) -> list[ModelTurn]:
    """The turns of a response's output that sampled tokens; at least one.

    Raises:
        UnusableTokensError: a turn has no token ids, or its ids or log probabilities are not valid.
    """
    turns: list[ModelTurn] = []
    for is_generated, group in groupby(_items(output), key=_is_generated):
        items = list(group)
        if is_generated and not _has_ids(items[-1]):
            raise UnusableTokensError("turns without token ids" if has_token_ids(output) else "no token ids")
        # A server may repeat the ids on each item of a turn: equal neighbours are one turn.
        distinct = groupby(_turn(item) for item in items if _has_ids(item))
        turns += [turn for turn, _ in distinct if turn.sampled]
    if not turns:
        raise UnusableTokensError("no sampled tokens")
    return turns


def sequences_of(turns: list[ModelTurn]) -> tuple[list[TokenSequence], list[tuple[int, str]]]:
    """The sequences of turns: one, and a further one at each turn that does not begin with the tokens before it.

    Returns:
        The sequences, and for each of them but the first, the number of its first turn (from 1) and the reason.
    """
    sequences, drifts = [TokenSequence.of(turns[0])], list[tuple[int, str]]()
    for number, turn in enumerate(turns[1:], 2):
        if reason := sequences[-1].drift_of(turn.prompt):
            drifts.append((number, reason))
            sequences.append(TokenSequence.of(turn))
        else:
            sequences[-1].extend(turn)
    return sequences, drifts


def _items(output: Any) -> list[Json]:
    return [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []


def _has_ids(item: Json) -> bool:
    return item.get(_SAMPLED) is not None


def _is_generated(item: Json) -> bool:
    """True if the model wrote an item: it is neither the result of a tool nor a message of another role."""
    kind = item.get("type") or "message"
    return kind not in _RESULTS and (kind != "message" or item.get("role") == "assistant")


def _turn(item: Json) -> ModelTurn:
    prompt, sampled, log_probs = item.get(_PROMPT), item[_SAMPLED], item.get(_LOG_PROBS)
    if not prompt:
        raise UnusableTokensError("no token ids of a prompt")
    if not (_are_ids(prompt) and _are_ids(sampled)):
        raise UnusableTokensError(f"token ids that are not integers from 0 to {_MAX_ID}")
    if log_probs is None and sampled:
        raise UnusableTokensError("no log probabilities")
    log_probs = log_probs or []
    if not isinstance(log_probs, list) or len(log_probs) != len(sampled):
        raise UnusableTokensError("not one log probability for each sampled token")
    if not all(type(each) in (int, float) and _LOWEST <= each <= _LARGEST for each in log_probs):
        raise UnusableTokensError("log probabilities that are not finite numbers up to 0")
    return ModelTurn(prompt=prompt, sampled=sampled, log_probs=list(map(float, log_probs)))


def _are_ids(values: Any) -> bool:
    # `type`, because a bool is an int as well
    return (
        isinstance(values, list)
        and set(map(type, values)) <= {int}
        and (not values or (min(values) >= 0 and max(values) <= _MAX_ID))
    )
