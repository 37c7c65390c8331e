"""Executes the commands that change a run or ask for its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ng_rollouts.console import counted, log
from ng_rollouts.control.commands import CHANGES, Command, parse_command
from ng_rollouts.errors import UsageError
from ng_rollouts.redaction import mask_values
from ng_rollouts.scheduling.control import ScheduleControl
from ng_rollouts.scheduling.counters import RunCounters
from ng_rollouts.scheduling.stop import Stop
from ng_rollouts.types import Json, Rollout, RolloutKey

_MAX_CHARACTERS = 2000
_MAX_TURNS = 50
"""How much `show` shows of a text, and the last items of a conversation."""

_MAX_LOGGED = 1000
"""Commands in the summary. A program that sends more than these is its own log."""


@dataclass(slots=True, kw_only=True)
class Controls:
    """The parts of a run that commands read and change.

    Attributes:
        status: the state of the run as text and as an object.
        knobs: for each parameter that can be changed, what changes it and returns the value that is now in effect.
        retry_failed: puts failed rollouts of this run back, and returns a description.
        is_planned: whether a task is planned, by its index.
        where: for a rollout in flight, its agent, its servers, and its turns if they are known.
        log: the commands that changed the run, for its summary.
    """

    counters: RunCounters
    schedule: ScheduleControl
    stop: Stop
    status: Callable[[], tuple[str, Json]]
    knobs: Mapping[str, Callable[[float], float]]
    retry_failed: Callable[[], str]
    is_planned: Callable[[int], bool]
    where: Callable[[Rollout], Json]
    log: list[Json] = field(default_factory=list)

    def execute(self, text: str, by: str) -> Json:
        """Execute a command, and return the fields of its reply; a change is logged.

        Args:
            by: who sent it.

        Raises:
            UsageError: it is not a command, or the run cannot do it now.
        """
        command = parse_command(text)
        reply = self._execute(command)
        if command.name in CHANGES:
            log(f"{command.text} (by {by}): {reply['text']}")
            at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            if len(self.log) < _MAX_LOGGED:
                self.log.append({"at": at, "command": command.text, "by": by})
        return reply

    def _execute(self, command: Command) -> Json:
        match command.name:
            case "status":
                text, status = self.status()
                return {"text": text, "status": status}
            case "set":
                return {"text": self._set(command)}
            case "pause":
                self.schedule.pause()
                return {"text": f"paused: {self._in_flight()} finish, and none starts"}
            case "resume":
                self.schedule.resume()
                return {"text": "rollouts start again"}
            case "drain":
                return {"text": self._drain()}
            case "retry":
                return {"text": self.retry_failed()}
            case "cancel":
                return {"text": self._cancel(command.key)}
            case _:
                return self._show(command.key)

    def _set(self, command: Command) -> str:
        if command.knob not in self.knobs:
            raise UsageError(f"{command.knob} cannot be changed in this run")
        value = self.knobs[command.knob](command.value)
        limited = f", which is the most that is possible instead of {command.value:g}" if value < command.value else ""
        return f"{command.knob} is {value:g}{limited}"

    def _drain(self) -> str:
        drain = f"{self._in_flight()} have {self.stop.drain_s:g} s to finish"
        self.stop.requested.set()
        return drain

    def _cancel(self, key: RolloutKey) -> str:
        if not self.is_planned(key.task_index):
            raise UsageError(f"task {key.task_index} is not planned")
        ended = counted(self.schedule.cancel(key.task_index), "attempt")
        return f"cancelled: {ended} in flight ended, and none of task {key.task_index} starts any more"

    def _show(self, key: RolloutKey) -> Json:
        name = f"{key.task_index}:{key.rollout_index}"
        rollout = next((each for each in self.schedule.in_flight() if each.key == key), None)
        if rollout is None:
            raise UsageError(f"rollout {name} is not in flight")
        shown = {"rollout": name, "in_flight_s": round(self.counters.seconds_of(key), 3), **self.where(rollout)}
        shown = _shortened(mask_values(shown))  # masked first: a part of a secret is not known
        return {"text": "\n".join(_lines(shown)), "shown": shown}

    def _in_flight(self) -> str:
        return counted(self.counters.in_flight, "rollout") + " in flight"


def _lines(shown: Json) -> list[str]:
    """The lines that `show` prints: one about the rollout, and one for each turn."""
    servers = ", ".join(shown["servers"])
    head = f"{shown['rollout']}: {shown['in_flight_s']:.1f} s in flight, agent {shown['agent']}"
    turns = [_turn(turn) for turn in shown["turns"] or ()]
    return [head + (f" at {servers}" if servers else ""), *(turns or ["its turns are known to its agent only"])]


def _turn(turn: Any) -> str:
    """An item of a conversation in one line."""
    if not isinstance(turn, dict):
        return str(turn)
    name = str(turn.get("role") or turn.get("type") or "item")
    parts = turn.get("content") or turn.get("output") or turn.get("summary") or turn.get("arguments") or ""
    texts = [str(each.get("text", "")) if isinstance(each, dict) else str(each) for each in _listed(parts)]
    called = f" {turn['name']}" if turn.get("name") else ""
    return f"  {name}{called}: {' '.join(' '.join(texts).split())}"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _shortened(value: Any) -> Any:
    """A value with texts that are cut off, and the last items of lists."""
    if isinstance(value, str):
        return value if len(value) <= _MAX_CHARACTERS else f"{value[:_MAX_CHARACTERS]}…"
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    return [_shortened(each) for each in value[-_MAX_TURNS:]] if isinstance(value, list) else value
