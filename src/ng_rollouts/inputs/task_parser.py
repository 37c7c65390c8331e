"""Parse one line of the input into a task: check it, apply the template and the overrides, choose the agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ng_rollouts.config.validation import check_sampling
from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.inputs.exported_task import exported_task, is_exported
from ng_rollouts.jsonl import loads
from ng_rollouts.templates import Template
from ng_rollouts.types import Json

ANY_AGENT = "agent"
"""Name of the agent of rows that do not name one, when one address serves every row."""

NO_AGENT = (
    "no agent specified: give +agent_name=NAME, +agent_url=URL or +policy_base_url=URL, or put agent_ref into the row"
)
"""The reason that a row without an agent is an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One input row, checked, with all overrides applied.

    Attributes:
        row: the row as it is sent, without the fields that identify the rollout.
        agent: name of the agent that answers it.
        index: the row's own `_ng_task_index`, if it has one.
        repeats: number of rollouts to collect.
    """

    row: Json
    agent: str
    index: int | None
    repeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskParser:
    """Makes tasks of input lines.

    Attributes:
        overrides: parameters that replace those in the row's `responses_create_params`. They are not merged deeply.
        agent_name: agent of the rows that do not name one.
        serves_all: whether one address serves every row, with or without an agent name.
        repeats: number of rollouts per task, or that number by agent name.
        add_seed: whether each rollout gets its own seed.
        template: template that makes the input messages, if there is one.
    """

    overrides: Json = field(default_factory=dict)
    agent_name: str | None = None
    serves_all: bool = False
    repeats: int | dict[str, int] = 1
    add_seed: bool = False
    template: Template | None = None

    def parse(self, line: bytes) -> Task:
        """Parse one line of the input.

        Raises:
            InputError: the line is not a valid task; the message gives the reason, without the line number.
        """
        row = _parse_object(line)
        if is_exported(row):
            row = self._exported(row)
        row["responses_create_params"] = self._params(row)
        agent = self._agent(row)
        return Task(row=row, agent=agent, index=_own_index(row), repeats=self._repeats_for(agent))

    def is_deterministic(self, task: Task) -> bool:
        """Whether all rollouts of a task have the same sampling: temperature 0, or the same seed."""
        params = task.row["responses_create_params"]
        return params.get("temperature") == 0 or (params.get("seed") is not None and not self.add_seed)

    def _exported(self, row: Json) -> Json:
        """The task of an exported row. Its template, if it has one, makes the input again."""
        row = exported_task(row)
        params = row.get("responses_create_params")
        if self.template is not None and isinstance(params, dict):
            row["responses_create_params"] = {name: value for name, value in params.items() if name != "input"}
        return row

    def _params(self, row: Json) -> Json:
        own = row.get("responses_create_params")
        if own is None:
            own = {}
        if not isinstance(own, dict):
            raise InputError(f"responses_create_params must be an object, got {_type_name(own)}")
        params = {**own, **self.overrides}
        if self.template is not None:
            if params.get("input"):
                raise InputError("the row already has an input, which prompt_config would replace: remove one of them")
            params["input"] = self.template.fill(row)
        params["input"] = _messages(params.get("input"))
        try:
            check_sampling(params, "responses_create_params.")
        except ConfigError as error:
            # The same check reports a bad parameter of the command; here the row is at fault.
            raise InputError(str(error)) from error
        return params

    def _agent(self, row: Json) -> str:
        reference = row.get("agent_ref")
        if reference is not None and not isinstance(reference, dict):
            raise InputError(f"agent_ref must be an object such as {{name: my_agent}}, got {_type_name(reference)}")
        name = (reference or {}).get("name") or self.agent_name
        if name is None and self.serves_all:
            name = ANY_AGENT
        if name is None:
            raise InputError(NO_AGENT)
        if not isinstance(name, str):
            raise InputError(f"agent_ref.name must be a string, got {_type_name(name)}")
        return name

    def _repeats_for(self, agent: str) -> int:
        if isinstance(self.repeats, int):
            return self.repeats
        repeats = self.repeats.get(agent, self.repeats.get("_default"))
        if repeats is None:
            raise InputError(f"num_repeats has neither the agent {agent!r} nor _default: add one of them")
        return repeats


def _parse_object(line: bytes) -> Json:
    try:
        row = loads(line)
    except ValueError as error:
        # Parsers count lines within the text that they get, which is always one line here.
        reason = str(error).replace("line 1 ", "").split(" (char ")[0]
        raise InputError(f"not JSON: {reason}") from error
    if not isinstance(row, dict):
        raise InputError(f"a row must be a JSON object, got {_type_name(row)}")
    return row


def _messages(value: Any) -> list[Json]:
    """The input as a list of messages; text becomes one user message.

    Raises:
        InputError: it is missing, or neither text nor a list of objects.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if value is None:
        raise InputError("responses_create_params.input is missing: add a string or a list of messages")
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InputError("responses_create_params.input must be a string or a list of messages (objects)")
    return value


def _own_index(row: Json) -> int | None:
    index = row.get("_ng_task_index")
    # The plan stores indices as signed 64-bit integers.
    if index is not None and (not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1 << 63):
        raise InputError(f"_ng_task_index must be an integer from 0 to 2**63 - 1, got {index!r}")
    return index


def _type_name(value: object) -> str:
    """The JSON type of a value, with its article."""
    if value is None:
        return "null"
    names = {bool: "a bool", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
