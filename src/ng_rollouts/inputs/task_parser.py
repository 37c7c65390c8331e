"""One line of the input -> a task: checked, its input made, all overrides applied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ng_rollouts.config.validation import check_sampling
from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.jsonl import loads
from ng_rollouts.templates import Template
from ng_rollouts.types import Json

ANY_AGENT = "agent"
"""Names the agent of rows that name none, when one address serves every row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One input row, checked, with all overrides applied.

    Attributes:
        row: as it is sent, but for what names the rollout.
        agent: name of the agent that answers it.
        index: the `_ng_task_index` that the row brought, if any.
        repeats: rollouts to make of it.
    """

    row: Json
    agent: str
    index: int | None
    repeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskParser:
    """How a row becomes a task.

    Attributes:
        overrides: laid shallowly over the row's `responses_create_params`.
        agent_name: for rows that name no agent.
        serves_all: whether an agent serves rows whatever they name.
        repeats: rollouts per task, or per task by agent name.
        add_seed: whether each rollout gets a seed of its own.
        template: makes the input, if given.
    """

    overrides: Json = field(default_factory=dict)
    agent_name: str | None = None
    serves_all: bool = False
    repeats: int | dict[str, int] = 1
    add_seed: bool = False
    template: Template | None = None

    def parse(self, line: bytes) -> Task:
        """Read one line of the input.

        Raises:
            InputError: what is wrong with it.
        """
        row = _parse(line)
        row["responses_create_params"] = self._params(row)
        agent = self._agent(row)
        return Task(row=row, agent=agent, index=_brought_index(row), repeats=self._repeats_for(agent))

    def is_deterministic(self, task: Task) -> bool:
        """Whether the rollouts of a task are bound to be alike."""
        params = task.row["responses_create_params"]
        return params.get("temperature") == 0 or (params.get("seed") is not None and not self.add_seed)

    def _params(self, row: Json) -> Json:
        own = row.get("responses_create_params")
        if own is None:
            own = {}
        if not isinstance(own, dict):
            raise InputError(f"responses_create_params must be an object, got {_kind(own)}")
        params = {**own, **self.overrides}
        if self.template is not None:
            if params.get("input"):
                raise InputError("the row already has an input, which prompt_config would replace")
            params["input"] = self.template.fill(row)
        params["input"] = _messages(params.get("input"))
        try:
            check_sampling(params, "responses_create_params.")
        except ConfigError as error:
            raise InputError(str(error)) from error
        return params

    def _agent(self, row: Json) -> str:
        reference = row.get("agent_ref")
        if reference is not None and not isinstance(reference, dict):
            raise InputError(f"agent_ref must be an object such as {{name: my_agent}}, got {_kind(reference)}")
        name = (reference or {}).get("name") or self.agent_name
        if name is None and self.serves_all:
            name = ANY_AGENT
        if name is None:
            raise InputError("no agent specified: give +agent_name=NAME, or put agent_ref in the row")
        if not isinstance(name, str):
            raise InputError(f"agent_ref.name must be text, got {_kind(name)}")
        return name

    def _repeats_for(self, agent: str) -> int:
        if isinstance(self.repeats, int):
            return self.repeats
        repeats = self.repeats.get(agent, self.repeats.get("_default"))
        if repeats is None:
            raise InputError(f"num_repeats has neither the agent {agent!r} nor _default")
        return repeats


def _parse(line: bytes) -> Json:
    try:
        row = loads(line)
    except ValueError as error:
        reason = str(error).replace("line 1 ", "").split(" (char ")[0]
        raise InputError(f"not JSON: {reason}") from error
    if not isinstance(row, dict):
        raise InputError(f"not a JSON object but {_kind(row)}")
    return row


def _messages(value: Any) -> list[Json]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if value is None:
        raise InputError("responses_create_params.input is missing: a string or a list of messages")
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InputError("responses_create_params.input must be a string or a list of messages (objects)")
    return value


def _brought_index(row: Json) -> int | None:
    index = row.get("_ng_task_index")
    if index is not None and (not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1 << 63):
        raise InputError(f"_ng_task_index must be an integer from 0, got {index!r}")
    return index


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a bool", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)
