"""Every error that this program raises on purpose, each with the exit code it ends the command with.

    NgRolloutsError               4  an unexpected error of ours
    ├── UsageError                2  the command, the config or the input is wrong; nothing was sent
    │   ├── ConfigError              a parameter
    │   ├── InputError               the tasks
    │   └── OutputError              the place where results are to go
    ├── RolloutsFailed            1  finished, and more rollouts failed than was allowed
    ├── UploadFailed              1  finished, and not everywhere that it was to be
    ├── GateMissed                5  finished, and below what was asked for
    ├── StoppedEarly              3  going on was pointless
    │   ├── Unreachable              a server that the run needs does not answer
    │   └── StorageError             what was collected can no longer be written
    ├── Interrupted         130, 143  a signal ended the run
    └── AttemptFailed             -  one attempt at a rollout failed; stays within the run

A message is one line: what is wrong, which value, and the cure.
"""

from __future__ import annotations

MESSAGE_CHARACTERS = 2000
"""What is kept of a server's own words."""


class NgRolloutsError(Exception):
    """Root of the tree; ends the command with `exit_code`."""

    exit_code = 4


class UsageError(NgRolloutsError):
    """The command, the config or the input is wrong, and nothing was sent."""

    exit_code = 2


class ConfigError(UsageError):
    """A parameter is unknown, malformed, out of range, or at odds with another."""


class InputError(UsageError):
    """The tasks cannot be read as they are."""


class OutputError(UsageError):
    """The output cannot be written where it was asked for."""


class GateMissed(NgRolloutsError):  # noqa: N818 - the run's end, told as such
    """The run is finished, and what it measured is below what was asked for."""

    exit_code = 5


class RolloutsFailed(NgRolloutsError):  # noqa: N818 - the run's end, told as such
    """More rollouts failed than a program has said that may."""

    exit_code = 1


class UploadFailed(NgRolloutsError):  # noqa: N818 - the run's end, told as such
    """What there is could not be copied to where it was to go; it is here."""

    exit_code = 1


class StoppedEarly(NgRolloutsError):  # noqa: N818 - the run's end, told as such
    """The run ended before its work was done because going on was pointless."""

    exit_code = 3


class Unreachable(StoppedEarly):
    """A server that the run cannot do without does not answer."""


class StorageError(StoppedEarly):
    """A result could not be written, so nothing more is asked for."""


class Interrupted(NgRolloutsError):  # noqa: N818 - the run's end, told as such
    """A signal ended the run; what was collected is in the output."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by signal {signal_number}")
        self.exit_code = 128 + signal_number


class AttemptFailed(NgRolloutsError):  # noqa: N818 - an outcome, not a defect
    """One attempt at a rollout failed.

    Attributes:
        failure_class: name of the kind of failure, as files and messages give it.
        message: what happened, in the server's own words where it said any.
        status: the HTTP status, where there was one.
        retryable: whether another attempt may end differently.
        terminal: whether the agent said that no run should try this rollout again.
        persist: whether the failure is to be written down.
        retry_after_s: seconds the server asked to be left alone for.
        sent_at: when the request that failed was sent (`time.monotonic`), where that is known.
    """

    def __init__(
        self,
        failure_class: str,
        message: str,
        *,
        status: int | None = None,
        retryable: bool = False,
        terminal: bool = False,
        persist: bool = True,
        retry_after_s: float | None = None,
    ) -> None:
        self.failure_class = failure_class
        self.message = message[:MESSAGE_CHARACTERS]
        super().__init__(f"{failure_class}: {self.message}")
        self.status = status
        self.retryable = retryable
        self.terminal = terminal
        self.persist = persist
        self.retry_after_s = retry_after_s
        self.sent_at: float | None = None


MAX_RETRY_AFTER_S = 120.0
"""A server that asks for more gets this much, so that a wrong clock does not stop a run."""


UNREACHABLE = frozenset({"connection_refused", "dns", "connect_failed", "connect_timeout"})
"""Classes of failures in which no server was there."""
