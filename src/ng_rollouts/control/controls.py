"""Executes the commands that change a run or ask for its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ng_rollouts.console import counted, log
from ng_rollouts.control.commands import Command, parse_command
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


_DRAINS = "the run drains already"

Setter = Callable[[float | None], float | None]
"""Changes a parameter, and returns the value that is now in effect; None for no limit."""


@dataclass(slots=True, kw_only=True)
class Controls:
    """The parts of a run that commands read and change.

    Attributes:
        status: the state of the run as text and as an object.
        setters: for each parameter that can be changed, what changes it and returns the value that is now in effect.
        retry_failed: puts failed rollouts of this run back, and returns their number.
        is_planned: whether a task is planned, by its index.
        where: for a rollout in flight, its agent, its servers, and its turns if they are known.
        log: the commands that changed the run, for its summary.
    """

    counters: RunCounters
    schedule: ScheduleControl
    stop: Stop
    status: Callable[[], tuple[str, Json]]
    setters: Mapping[str, Setter]
    retry_failed: Callable[[], int]
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
        if command.name == "status":
            text, status = self.status()
            return {"text": text, "status": status}
        if command.name == "show":
            return self._show(command.key)
        text, is_change = self._change(command)
        if is_change:
            self._log(command, by, text)
        return {"text": text}

    def _log(self, command: Command, by: str, text: str) -> None:
        log(f"{command.text} (by {by}): {text}")
        at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        if len(self.log) < _MAX_LOGGED:
            self.log.append({"at": at, "command": command.text, "by": by})

    def _change(self, command: Command) -> tuple[str, bool]:
        """Execute a command that changes the run: its reply, and whether it changed something."""
        match command.name:
            case "set":
                return self._set(command), True
            case "pause":
                return self._pause()
            case "resume":
                return self._resume()
            case "drain":
                return self._drain()
            case "retry":
                number = self.retry_failed()
                return f"{counted(number, 'failed rollout')} will be attempted again", number > 0
            case _:
                return self._cancel(command.key.task_index)

    def _set(self, command: Command) -> str:
        name, wanted = command.parameter, command.value
        if name not in self.setters:
            raise UsageError(f"{name} cannot be changed in this run")
        # The end of the time still ends a drain.
        if self.stop.requested.is_set() and name != "max_wall_s":
            raise UsageError(f"{name} cannot be changed any more: the run drains already")
        value = self.setters[name](wanted)
        is_less = value is not None and wanted is not None and value < wanted
        limited = f", which is the most that is possible instead of {_number(wanted)}" if is_less else ""
        return f"{name} is {_number(value)}{limited}"

    def _pause(self) -> tuple[str, bool]:
        if self.stop.requested.is_set():
            return _DRAINS, False
        if self.schedule.is_paused:
            return "the run is paused already", False
        self.schedule.pause()
        return f"paused: {self._in_flight('finishes', 'finish')}, and none starts", True

    def _resume(self) -> tuple[str, bool]:
        if self.stop.requested.is_set():
            return _DRAINS, False
        if not self.schedule.is_paused:
            return "the run is not paused", False
        self.schedule.resume()
        return "rollouts start again", True

    def _drain(self) -> tuple[str, bool]:
        if self.stop.requested.is_set():
            return _DRAINS, False
        self.stop.requested.set()
        return f"{self._in_flight('has', 'have')} {self.stop.drain_s:g} s to finish", True

    def _cancel(self, task_index: int) -> tuple[str, bool]:
        if not self.is_planned(task_index):
            raise UsageError(f"task {task_index} is not planned")
        if task_index in self.schedule.cancelled:
            return f"task {task_index} is cancelled already", False
        ended = counted(self.schedule.cancel(task_index), "rollout")
        return f"cancelled: {ended} in flight ended, and none of task {task_index} starts any more", True

    def _show(self, key: RolloutKey) -> Json:
        name = f"{key.task_index}:{key.rollout_index}"
        rollout = next((each for each in self.schedule.in_flight() if each.key == key), None)
        if rollout is None:
            raise UsageError(f"rollout {name} is not in flight")
        shown = {
            "rollout": name,
            "in_flight_s": round(self.counters.seconds_of(key), 3),
            "attempts": self.schedule.attempts_of(key),
            **self.where(rollout),
        }
        shown = _shortened(mask_values(shown))  # masked first: a part of a secret is not known
        return {"text": "\n".join(_lines(shown)), "shown": shown}

    def _in_flight(self, verb: str, verb_of_several: str) -> str:
        return counted(self.counters.in_flight, "rollout", f"in flight {verb}", f"in flight {verb_of_several}")


def _number(value: float | None) -> str:
    """A value of a parameter as it is typed."""
    return "null" if value is None else f"{value:.0f}" if value == int(value) else f"{value:g}"


def _lines(shown: Json) -> list[str]:
    """The lines that `show` prints: one about the rollout, and one for each turn."""
    servers = ", ".join(shown["servers"])
    head = f"{shown['rollout']}: {shown['in_flight_s']:.1f} s in flight, agent {shown['agent']}"
    turns = [_turn(turn) for turn in shown["turns"] or ()]
    head += f" at {servers}" if servers else ""
    if shown["attempts"] > 1:
        head += f", {shown['attempts']} attempts" + (" (these are the turns of the first one)" if turns else "")
    return [head, *(turns or ["its turns are known to its agent only"])]


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
