"""Ends a run after repeated failures that the remaining rollouts would repeat."""

from __future__ import annotations

from collections.abc import Sequence

from ng_rollouts.errors import UNREACHABLE, FailureClass, StoppedEarly

_FATAL = UNREACHABLE | {FailureClass.CERTIFICATE, "http_401", "http_403", "http_404"}
"""Classes that do not depend on the task: no server, an untrusted certificate, rejected credentials, no such agent."""

_AT_ONCE = frozenset({FailureClass.NO_TOKEN_IDS})
"""Classes of which one failure before the first success shows that the server cannot do what is asked."""

_MAX_FATAL_BEFORE_SUCCESS = 3
"""More than one, since a single connection can fail by accident; few, since the configuration is probably wrong."""

_MAX_FATAL_AFTER_SUCCESS = 10
"""Higher than before the first success: the configuration is right, and the server may be restarting."""

_MAX_SAME_CLASS_BEFORE_SUCCESS = 20
"""High, because failures of other classes may depend on the task."""

_FIXES: dict[str, str] = {
    "http_401": "check the credentials, such as policy_api_key",
    "http_403": "check the credentials, such as policy_api_key",
    "http_404": "check the address, and the name of the model",
    FailureClass.CERTIFICATE: "set SSL_CERT_FILE=FILE to the certificate of the server's authority",
    FailureClass.REPLY_TOO_LARGE: "raise max_reply_mb",
    FailureClass.NO_TOKEN_IDS: "use such a server, or token_ids=auto",
    **dict.fromkeys(UNREACHABLE, "check that the server runs at this address"),
}
"""What to do about a fatal class."""


class CircuitBreaker:
    """Ends a run when the failures of one agent show that continuing is pointless.

    Before the first success, it opens after three consecutive `_FATAL` failures (fewer if the run has fewer rollouts),
    after 20 consecutive failures of the same class, or after one of `_AT_ONCE`. After it, it opens after ten
    consecutive `_FATAL` failures.

    Args:
        agent: its name.
        rollouts: the number of planned rollouts.
    """

    def __init__(self, agent: str, rollouts: int) -> None:
        self._agent = agent
        self._rollouts = rollouts
        self._urls: Sequence[str] = ()
        self._succeeded = False
        self._consecutive = 0
        # All fatal classes count as one, None: one broken server often causes several of them.
        self._class: str | None = None

    def name_servers(self, urls: Sequence[str]) -> None:
        """Set the addresses that the agent's requests go to, without passwords, for the message."""
        self._urls = urls

    def record_success(self) -> None:
        """Count a collected rollout; consecutive failures start again from zero."""
        self._succeeded = True
        self._consecutive = 0

    def record_failure(self, failure_class: str, message: str) -> None:
        """Count a rollout whose last attempt failed.

        Raises:
            StoppedEarly: continuing is pointless.
        """
        merged_class = None if failure_class in _FATAL else failure_class
        self._consecutive = self._consecutive + 1 if merged_class == self._class else 1
        self._class = merged_class
        if self._consecutive >= self._threshold() or (failure_class in _AT_ONCE and not self._succeeded):
            period = "last" if self._succeeded else "first"
            rollouts = f"the {period} {self._consecutive} rollouts" if self._consecutive > 1 else "the rollout"
            alike = " in the same way" if self._consecutive > 1 else ""
            servers = f" ({', '.join(self._urls)})" if self._urls else ""
            fix = f": {_FIXES[failure_class]}" if failure_class in _FIXES else ""
            raise StoppedEarly(
                f"{rollouts} of agent {self._agent!r}{servers} failed{alike}, so continuing is pointless: "
                f"{failure_class}: {message}{fix}"
            )

    def _threshold(self) -> float:
        if self._class is None:
            return _MAX_FATAL_AFTER_SUCCESS if self._succeeded else min(_MAX_FATAL_BEFORE_SUCCESS, self._rollouts)
        # After a success, failures of the same class are failures of those tasks: they never end the run.
        return float("inf") if self._succeeded else _MAX_SAME_CLASS_BEFORE_SUCCESS
