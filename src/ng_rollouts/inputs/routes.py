"""Routes: which agents answer a row, by the rules of NeMo Gym 0.7.

The agent of a row is the first of these that there is:

1. `agent_map`, at the name of the row's agent, then at its `task_source`, then at `_default`. `agent_name` is another
   way to write `_default`, so it replaces the agent of every row.
2. The name in the row's `agent_ref`.
3. The agent of the row's `task_source`, the entry of the servers' configuration that its data belong to.

`fan_out` sends a row to several agents instead, and the rollouts of all of them belong to one task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ng_rollouts.errors import InputError
from ng_rollouts.types import Json

ANY_AGENT = "agent"
"""Name of the agent of rows that do not name one, when one address serves every row."""

DEFAULT = "_default"
"""The key of `agent_map` and `num_repeats` for all rows that no other key is for."""

NO_AGENT = (
    "no agent specified: give +agent_name=NAME, +agent_url=URL or +policy_base_url=URL, or put agent_ref or "
    "task_source into the row"
)
"""The reason that a row without an agent is an error."""


class AgentRepeats(NamedTuple):
    """An agent that answers a task, and its number of rollouts."""

    agent: str
    repeats: int


class Route(NamedTuple):
    """How all rows that name the same agent and source are answered.

    Attributes:
        runs: the agents that answer such a row, each with its number of rollouts.
        is_rerouted: whether the rows name another agent than one that answers them.
        names: the agent and the source that the rows name, if parameters route rows.
    """

    runs: tuple[AgentRepeats, ...]
    is_rerouted: bool = False
    names: tuple[str, ...] = ()

    @property
    def repeats(self) -> int:
        """The number of rollouts to collect of each row."""
        return self.runs[0].repeats if len(self.runs) == 1 else sum(run.repeats for run in self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Chooses the agents of rows.

    Attributes:
        agent_map: the agent to use, by the name of a row's agent or `task_source`; `_default` is for all others.
        fan_out: the agents that all answer a row, by the same names.
        agent_of_source: the agent of a `task_source`; raises InputError for one that has none.
        serves_all: whether one address serves every row, with or without an agent name.
        repeats: number of rollouts per task, or that number by agent name.
    """

    agent_map: Mapping[str, str] = field(default_factory=dict)
    fan_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    agent_of_source: Callable[[str], str] | None = None
    serves_all: bool = False
    repeats: int | Mapping[str, int] = 1
    # The routes of the rows so far: inputs have many rows, and few agents and sources.
    _known: dict[tuple[str | None, str | None], Route] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def route(self, row: Json) -> Route:
        """The route of a row.

        Raises:
            InputError: it has no agent, or one without a number of rollouts.
        """
        named = _own_agent(row), _text("task_source", row.get("task_source"))
        route = self._known.get(named)
        if route is None:
            route = self._known[named] = self._route(*named)
        return route

    def route_to(self, server: str) -> Route:
        """The route of a row whose server is known.

        Raises:
            InputError: the server has no number of rollouts.
        """
        return Route((AgentRepeats(server, self._repeats_of(server, server)),))

    def _route(self, own: str | None, source: str | None) -> Route:
        runs = self._runs(own, source)
        is_rerouted = own is not None and own not in self.fan_out and any(run.agent != own for run in runs)
        names = (own, source) if self.agent_map or self.fan_out else ()
        return Route(runs, is_rerouted, tuple(name for name in names if name is not None))

    def _runs(self, own: str | None, source: str | None) -> tuple[AgentRepeats, ...]:
        key = own or source
        if key is not None and key in self.fan_out:
            return tuple(AgentRepeats(agent, self._repeats_of(agent, key)) for agent in self.fan_out[key])
        agent = self._agent(own, source)
        # A re-routed row has the number for the agent that it names, if the one that answers it has none.
        return (AgentRepeats(agent, self._repeats_of(agent, key or agent)),)

    def _agent(self, own: str | None, source: str | None) -> str:
        for key in (own, source, DEFAULT):
            if key is not None and key in self.agent_map:
                return self.agent_map[key]
        if own is not None:
            return own
        if self.serves_all:
            return ANY_AGENT
        if source is None or self.agent_of_source is None:
            raise InputError(NO_AGENT)
        return self.agent_of_source(source)

    def _repeats_of(self, agent: str, key: str) -> int:
        if isinstance(self.repeats, int):
            return self.repeats
        for name in (agent, key, DEFAULT):
            if name in self.repeats:
                return self.repeats[name]
        raise InputError(f"num_repeats has neither the agent {agent!r} nor _default: add one of them")


def _own_agent(row: Json) -> str | None:
    """The name in a row's `agent_ref`.

    Raises:
        InputError: the reference is not an object, or its name is not text.
    """
    reference = row.get("agent_ref")
    if reference is None:
        return None
    if not isinstance(reference, dict):
        raise InputError(f"agent_ref must be an object such as {{name: my_agent}}, got {type_name(reference)}")
    return _text("agent_ref.name", reference.get("name"))


def _text(name: str, value: Any) -> str | None:
    """A value as text; None if it is missing or empty.

    Raises:
        InputError: it is not text.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string, got {type_name(value)}")
    return value


def type_name(value: object) -> str:
    """The JSON type of a value, with its article."""
    if value is None:
        return "null"
    names = {bool: "a bool", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
