"""All checks of rollouts and tasks, and the masks of bits in which their results are kept.

A mask is one integer of 64 bits for each rollout, so that a million of them take 8 MB:

    bits 0-31    findings: bit i is check i of `Check`
    bits 32-47   checks without evidence: bit 32 + i is check i
    bits 48-63   facts about the rollout that the rules for tasks read
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import cache
from typing import Self

_UNOBSERVED_SHIFT = 32


class Check(StrEnum):
    """A check: its name in files and messages, its scope, and the line about it in the documentation.

    The first fourteen have the names and the order of NeMo Gym 0.7. Their findings are those of NeMo Gym.

    Attributes:
        is_of_task: whether it looks at all rollouts of a task. Such a finding is a flag of the task; it does not change
            the verdicts of its rollouts.
        is_problem: whether it is a problem. The others are information only.
        meaning: the reason of the finding, in one line.
        bit: its bit in a mask.
    """

    is_of_task: bool
    is_problem: bool
    meaning: str
    bit: int

    def __new__(cls, name: str, scope: str, meaning: str) -> Self:
        """Make a member of its name, its scope (`rollout`, `task` or `note`), and its line in the documents."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.is_of_task = scope != "rollout"
        member.is_problem = scope != "note"
        member.meaning = meaning
        member.bit = 1 << len(cls.__members__)
        return member

    CHECK_EXECUTION_ERROR = "check_execution_error", "rollout", "A check failed with an unexpected error."
    RECORD_UNREADABLE = (
        "record_unreadable",
        "rollout",
        "The line is not a rollout, or its `ng_trajectory` is not valid.",
    )
    DUPLICATE_IDENTITY = "rollout_duplicate_identity", "rollout", "Several lines are the same rollout of the same task."
    MISSING_AGENT_TURNS = "rollout_missing_agent_turns", "rollout", "No turn has a text, a tool call or a model call."
    ENDED_ON_FAILED_CALL = (
        "rollout_ended_on_failed_model_call",
        "rollout",
        "The last call of a model failed, so the reward may be that of an outage.",
    )
    HOLLOW_TURN = "agent_turn_hollow", "rollout", "A turn has no text, no reasoning and no tool call."
    ZERO_COMPLETION_TOKENS = "model_call_zero_completion_tokens", "rollout", "A model call generated 0 tokens."
    MISSING_TOKEN_COUNTS = "model_call_missing_token_counts", "rollout", "A model call has no token counts."
    CAPTURE_MISMATCH = (
        "trajectory_capture_mismatch",
        "rollout",
        "A turn refers to a model call that was captured not at all, or more than once.",
    )
    MODEL_CALL_FAILED = "model_call_failed", "rollout", "A model call failed, also if the agent recovered."
    TOKEN_COUNT_MISMATCH = (
        "rollout_token_count_mismatch",
        "rollout",
        "The usage of the response is not the sum of its model calls.",
    )
    RUNAWAY_GENERATION = (
        "model_call_runaway_generation",
        "rollout",
        "A model call reached its token limit without any text.",
    )
    CONSISTENTLY_UNHEALTHY = (
        "task_consistently_unhealthy",
        "task",
        "All rollouts of the task that could be checked are unhealthy, and there are at least two.",
    )
    NO_SUCCESSFUL_CALLS = "task_no_successful_model_calls", "task", "No model call of the task succeeded."

    EMPTY = "empty", "rollout", "The response is complete, but has neither text nor a tool call."
    NO_TOKENS = "no_tokens", "rollout", "The response is complete, but its usage reports 0 output tokens."
    ONLY_REASONING = "only_reasoning", "rollout", "The response has reasoning, but neither text nor a tool call."
    REPETITION = "repetition", "rollout", "The text ends in a loop: the same passage again and again."
    TOOL_NEVER_RAN = "tool_never_ran", "rollout", "A tool call in the middle of the rollout has no output."
    TOOLS_ALWAYS_FAILED = "tools_always_failed", "rollout", "All outputs of tools are errors."
    ENDED_ON_TOOL_CALL = (
        "ended_on_tool_call",
        "rollout",
        "The response is complete, but ends with a tool call or its output instead of an answer.",
    )
    TOKEN_LIMIT = "token_limit", "rollout", "The response was cut off by its token limit or by the context length."
    STEP_LIMIT = "step_limit", "rollout", "The agent reached its maximum number of steps."
    REWARD_OUT_OF_RANGE = "reward_out_of_range", "rollout", "The reward is outside the task's `reward_range`."
    IDENTICAL_SIBLINGS = (
        "identical_siblings",
        "task",
        "All rollouts of the task have the same long answer, although the temperature is not 0.",
    )
    VERIFIER_DISAGREES = "verifier_disagrees", "task", "The same answer to the task got different rewards."
    NEVER_SOLVED_SAME_FAILURE = (
        "never_solved_same_failure",
        "task",
        "No rollout of the task has a reward, and all have the same problem.",
    )
    ALWAYS_SOLVED = "always_solved", "note", "All rollouts of the task have the full reward."
    NEVER_SOLVED = "never_solved", "note", "No rollout of the task has a reward."

    @property
    def unobserved_bit(self) -> int:
        """The bit for a check that could not be made, because the rollout lacks evidence."""
        return self.bit << _UNOBSERVED_SHIFT


def mask_of(checks: Iterable[Check]) -> int:
    """The mask with the bits of some checks."""
    mask = 0
    for check in checks:
        mask |= check.bit
    return mask


def unobserved_mask_of(checks: Iterable[Check]) -> int:
    """The mask with the bits of some checks that could not be made."""
    return mask_of(checks) << _UNOBSERVED_SHIFT


CHECKS = tuple(Check)

NEMO_GYM_CHECKS = CHECKS[:14]

TRAJECTORY_CHECKS = CHECKS[3:12]
"""Checks that need `ng_trajectory`."""

TRAJECTORY_UNOBSERVED = unobserved_mask_of(TRAJECTORY_CHECKS)

LINE_UNOBSERVED = unobserved_mask_of((Check.CHECK_EXECUTION_ERROR, Check.DUPLICATE_IDENTITY)) | TRAJECTORY_UNOBSERVED
"""The checks that a line which is not a rollout does not allow."""

ROLLOUT_FINDINGS = mask_of(check for check in CHECKS if not check.is_of_task)
ALL_UNOBSERVED = unobserved_mask_of(check for check in NEMO_GYM_CHECKS if not check.is_of_task)

# Facts about a rollout.
VALID = 1 << 48
"""The rollout has a reward, and is not masked."""
FULL_REWARD = 1 << 49
"""The reward is the highest of its range; 1 or more without a range."""
NO_REWARD = 1 << 50
"""The reward is the lowest of its range; 0 or less without a range."""
GREEDY = 1 << 51
"""The temperature is 0, so that equal answers are expected."""
LONG_ANSWER = 1 << 52
"""The answer is long enough that equal answers are not a coincidence."""
PLAIN_ANSWER = 1 << 53
"""The response is one message, with or without reasoning, so that the reward depends on no tools."""
CALLS_OBSERVED = 1 << 54
"""The model calls of all turns are known."""
CALL_SUCCEEDED = 1 << 55
"""A model call of a turn succeeded."""
REASONED = 1 << 57
"""The response has reasoning, which the reward may depend on as well."""
HAS_OUTPUT = 1 << 56
"""The response has an output, so that the checks of responses were made."""


@cache
def findings_in(mask: int) -> tuple[Check, ...]:
    """The checks whose finding is in a mask, in the order of `Check`."""
    return tuple(check for check in CHECKS if mask & check.bit)


@cache
def unobserved_in(mask: int) -> tuple[Check, ...]:
    """The checks that a mask has as not observed, in the order of `Check`."""
    return tuple(check for check in NEMO_GYM_CHECKS if mask & check.unobserved_bit)


def verdict_of(mask: int) -> str:
    """The verdict about a rollout, as NeMo Gym words it.

    Returns:
        `unhealthy` with a finding, else `unobserved` if a check lacked evidence, else `healthy`.
    """
    if mask & ROLLOUT_FINDINGS:
        return "unhealthy"
    return "unobserved" if mask & ALL_UNOBSERVED else "healthy"
