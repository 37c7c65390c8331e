"""Every exception that this program raises on purpose, with the exit code it ends the command with.

    NgRolloutsError               4  an unexpected error of this program
    ├── UsageError                2  the command, config or input is wrong; nothing was sent
    │   ├── ConfigError              a parameter
    │   ├── InputError               the tasks
    │   └── OutputError              the output cannot be written where it was asked for
    ├── RolloutsFailed            1  finished, but more rollouts failed than allowed
    ├── UploadFailed              1  finished, but not every file was uploaded
    ├── GateMissed                5  finished, but below min_mean or min_coverage
    ├── StoppedEarly              3  stopped because continuing was pointless
    │   ├── InputChanged             the input was changed while the run read it
    │   ├── Unreachable              a server that the run needs does not answer
    │   ├── WallTimeOver             the time of the command is over, and rollouts remain
    │   └── StorageError             results can no longer be written
    │       └── OutputTaken             another file has the output's name
    ├── Interrupted         128 + n   signal n ended the run: 129, 130, 140 or 143
    └── AttemptFailed             -  one attempt at a rollout failed; never leaves the run

A message is one line: what is wrong, which value, and how to fix it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Self

MESSAGE_CHARACTERS = 2000
"""How much of a server's own message is kept."""

MAX_RETRY_AFTER_S = 120.0
"""Upper bound of an honoured `Retry-After`, so that a server with a wrong clock does not stop a run."""


class NgRolloutsError(Exception):
    """Root of the tree; ends the command with `exit_code`."""

    exit_code = 4

    @property
    def lines(self) -> tuple[str, ...]:
        """The message in lines, almost always one."""
        return (str(self),)


class UsageError(NgRolloutsError):
    """The command, config or input is wrong; nothing was sent."""

    exit_code = 2


class ConfigError(UsageError):
    """A parameter is unknown, malformed, out of range, or contradicts another."""


class InputError(UsageError):
    """The tasks cannot be read.

    Args:
        lines: the message, and details in further lines.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """The message and its details."""
        return self.args


class OutputError(UsageError):
    """The output cannot be written where it was asked for."""


class GateMissed(NgRolloutsError):  # noqa: N818 - names how the run ended
    """The run is finished, but a mean or the coverage is below its minimum."""

    exit_code = 5


class RolloutsFailed(NgRolloutsError):  # noqa: N818 - names how the run ended
    """More rollouts failed than `max_failed_rollouts` allows."""

    exit_code = 1


class UploadFailed(NgRolloutsError):  # noqa: N818 - names how the run ended
    """Not every file could be copied to `upload_to`; all of them are on this machine."""

    exit_code = 1


class StoppedEarly(NgRolloutsError):  # noqa: N818 - names how the run ended
    """The run ended before its work was done, because continuing was pointless."""

    exit_code = 3


class InputChanged(StoppedEarly):
    """The input was changed while the run read it."""


class WallTimeOver(StoppedEarly):
    """The time of the command is over, and rollouts remain."""


class Unreachable(StoppedEarly):
    """A server that the run needs does not answer."""


class StorageError(StoppedEarly):
    """A result could not be written, so nothing more is requested."""


class OutputTaken(StorageError):  # noqa: N818 - names how the run ended
    """Another file has the output's name, so the side files of that name are not this run's either."""


class Interrupted(NgRolloutsError):  # noqa: N818 - names how the run ended
    """A signal ended the run; everything collected is in the output."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by signal {signal_number}")
        self.exit_code = 128 + signal_number


class FailureClass(StrEnum):
    """Why an attempt failed: the name in files and messages, whether it is retried, and what it means.

    Three kinds of names are open-ended and therefore not members: `http_<status>`, `judge_<class>` for a failed call
    of the judge, and a class that an agent gives itself in `_ng_failure_class`.
    """

    is_retryable: bool
    meaning: str

    def __new__(cls, name: str, is_retryable: bool, meaning: str) -> Self:  # noqa: FBT001 - a column below
        """Make a member of its name, whether another attempt may succeed, and its line in the documents."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.is_retryable = is_retryable
        member.meaning = meaning
        return member

    # no server was reached
    CONNECTION_REFUSED = "connection_refused", True, "No server accepts connections at the address."
    DNS = "dns", True, "The host name cannot be resolved."
    CONNECT_TIMEOUT = "connect_timeout", True, "No connection within `connect_timeout_s`."
    CONNECT_FAILED = "connect_failed", True, "The connection failed for another reason."
    CERTIFICATE = (
        "certificate",
        False,
        "The server's TLS certificate is not trusted. `SSL_CERT_FILE` adds a certificate authority.",
    )
    # the connection broke
    CONNECTION_LOST = "connection_lost", True, "The connection was reset, or closed before a reply."
    TIMEOUT = "timeout", True, "No reply within `rollout_timeout_s`, or no bytes for `idle_timeout_s`."
    TRUNCATED = "truncated", True, "The connection closed in the middle of a reply."
    # the reply is wrong
    MALFORMED_REPLY = "malformed_reply", True, "The reply is not valid HTTP, or its compressed body is damaged."
    REPLY_TOO_LARGE = (
        "reply_too_large",
        False,
        "The reply, decompressed, is larger than `max_reply_mb`, or has 50 million values.",
    )
    NOT_JSON = "not_json", True, "The reply is not JSON."
    NOT_OBJECT = "not_object", False, "The reply is JSON, but not an object."
    NO_REWARD = "no_reward", False, "The reply has no number in `reward`."
    NOT_FINITE = "not_finite", False, "The reply has NaN or an infinite number."
    ODD_REPLY = "odd_reply", True, "The reply has an unexpected structure, or is nested too deeply to store."
    NO_TOKEN_IDS = "no_token_ids", False, "With `token_ids=required`: the model server's reply lacks them."
    MODEL_ERROR = "model_error", True, "The model server replied with a response that reports an error."
    NO_PERSIST = "no_persist", False, "The agent set `_ng_no_persist`. Counted, but not written to the failures file."
    # the request cannot be sent
    BAD_REQUEST = "bad_request", False, "The request or its address is malformed."
    UNSUPPORTED_PARAMETER = "unsupported_parameter", False, "The model server's API has no field for a parameter."
    NO_MODEL = "no_model", False, "A Python agent called the model, but no `policy_base_url` is set."
    # code of the user, and verifiers
    AGENT_ERROR = "agent_error", True, "A Python agent (`_target_`) raised an exception."
    TOOL_ERROR = "tool_error", False, "A Python tool raised an exception. The model receives it as the tool's output."
    VERIFIER_ERROR = "verifier_error", False, "The verifier raised an exception, or returned no score."
    VERIFIER_TIMEOUT = "verifier_timeout", False, "The verifier took longer than its `seconds`."
    VERIFIER_CRASHED = "verifier_crashed", False, "The verifier's process ended."
    JUDGE_UNREADABLE = "judge_unreadable", True, "The judge gave no verdict that can be read, in several attempts."
    # rollouts that are scored again
    NO_ANSWER = "no_answer", False, "`ng_rescore_rollouts`: the rollout has no response to score."
    INCOMPLETE_GROUP = "incomplete_group", False, "A judge of groups: another rollout of the task has no answer."
    # the user
    CANCELLED = "cancelled", False, "`ng_control_rollouts` cancelled the task. A resume retries it."
    # executors
    ACTOR_LOST = "actor_lost", False, "With `executor=ray`: three actors that ran the rollout were lost."
    WORKER_ERROR = "worker_error", True, "With `executor=ray`: an actor raised an unexpected exception."


def is_retryable_status(status: int) -> bool:
    """Whether a request with this HTTP status may succeed later (RFC 9110, 15.5.9, 15.6; RFC 6585; RFC 8470)."""
    return status in (408, 425, 429) or status >= 500


UNREACHABLE = frozenset(
    {
        FailureClass.CONNECTION_REFUSED,
        FailureClass.DNS,
        FailureClass.CONNECT_FAILED,
        FailureClass.CONNECT_TIMEOUT,
    }
)
"""No server was reached, so another endpoint may be tried at once."""


class AttemptFailed(NgRolloutsError):  # noqa: N818 - an outcome, not a defect
    """One attempt at a rollout failed.

    Attributes:
        failure_class: a `FailureClass`, or one of its open-ended names.
        message: what happened, in the server's own words if it gave any.
        status: the HTTP status, if there was one.
        retryable: whether another attempt may succeed.
        terminal: whether the agent said that no run should retry this rollout.
        persist: whether the failure is written to the failures file.
        retry_after_s: seconds that the server asked clients to wait.
        kept: fields of the reply that the failures file keeps, such as an answer that could not be scored.
        is_earlier: whether an earlier run failed, so that the failure says nothing about the servers of this one.
        sent_at: when the failed request was sent (`time.monotonic`), if known.
    """

    def __init__(
        self,
        failure_class: str,
        message: str,
        *,
        status: int | None = None,
        retryable: bool | None = None,
        terminal: bool = False,
        persist: bool = True,
        retry_after_s: float | None = None,
        kept: dict[str, Any] | None = None,
    ) -> None:
        """Describe a failed attempt; `retryable` defaults to what the failure class says."""
        self.failure_class = failure_class
        self.message = message[:MESSAGE_CHARACTERS]
        super().__init__(f"{failure_class}: {self.message}")
        self.status = status
        self.retryable = getattr(failure_class, "is_retryable", False) if retryable is None else retryable
        self.terminal = terminal
        self.persist = persist
        self.retry_after_s = retry_after_s
        self.kept = kept or {}
        self.is_earlier = False
        self.sent_at: float | None = None


def did_you_mean(name: object, known: Iterable[str], *, form: str = "{}", otherwise: str = "") -> str:
    """The end of a message about an unknown name: `, did you mean NAME?`, or `otherwise` if no known name is near.

    Args:
        form: how a name is written where it is used, such as `+{}=`.
    """
    from difflib import get_close_matches  # noqa: PLC0415 - only mistakes need it

    known = list(known)
    # `input` for `input_jsonl_fpath` is too short for difflib's ratio.
    near = [each for each in known if each.startswith(f"{name}_")] or get_close_matches(str(name), known, n=1)
    return f", did you mean {form.format(near[0])}?" if near else otherwise


def install_extra(extra: str) -> str:
    """The command that installs an optional dependency."""
    return f"pip install 'ng_rollouts[{extra}]'"


def require_extra(module: str, extra: str, what: str) -> None:
    """Check that an optional dependency is installed.

    Args:
        module: the module to import, named in the message.
        what: the setting or file that needs it.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{what} needs {module}: {install_extra(extra)}")
