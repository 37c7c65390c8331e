"""Parse one line of the input into a task: check it, apply the template and the overrides, choose the agents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ng_rollouts.config.validation import check_sampling
from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.inputs.exported_task import exported_task, is_exported
from ng_rollouts.inputs.materialized_task import flat_row, is_materialized, server_of
from ng_rollouts.inputs.routes import ANY_AGENT, Route, Routes, type_name
from ng_rollouts.jsonl import dumps, loads
from ng_rollouts.templates import Template
from ng_rollouts.types import Json

_OF_ROLLOUTS = ("_ng_rollout_id", "_ng_attempt_index")
"""Fields of a rollout in a row of an output. A new rollout of the same task must not have them."""


class Task(NamedTuple):
    """One input row, checked, with all overrides applied. A named tuple, because one is made for every row.

    Attributes:
        row: the row as it is sent, without the fields that identify the rollout.
        route: the agents that answer it.
        own_index: the row's own `_ng_task_index`, if it has one.
        is_episode: whether the row is a materialized one, which an environment server answers.
    """

    row: Json
    route: Route
    own_index: int | None = None
    is_episode: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskParser:
    """Makes tasks of input lines.

    Attributes:
        overrides: parameters that replace those in the row's `responses_create_params`. They are not merged deeply.
        routes: choose the agents.
        environment_routes: the environment servers of materialized rows, by task set.
        flattens: whether materialized rows are answered as flat ones, by an agent that is not an environment server.
        add_seed: whether each rollout gets its own seed.
        template: template that makes the input messages, if there is one.
    """

    overrides: Json = field(default_factory=dict)
    routes: Routes = field(default_factory=Routes)
    environment_routes: Mapping[str, str] = field(default_factory=dict)
    flattens: bool = False
    add_seed: bool = False
    template: Template | None = None

    def parse(self, line: bytes, *, has_long: bool | None = None) -> Task:
        """Parse one line of the input.

        Args:
            has_long: `has_long_integer` of the line, if that is known.

        Raises:
            InputError: the line is not a valid task; the message gives the reason, without the line number.
        """
        row = _parse_object(line, has_long=has_long)
        if is_exported(row):
            row = self._exported(row)
        if "_ng_rollout_index" in row:
            row = {name: value for name, value in row.items() if name not in _OF_ROLLOUTS}
        if is_materialized(row):
            server = server_of(row, self.environment_routes)
            if server is not None or not self.flattens:
                return self._episode(row, server)
            row = flat_row(row)
        elif "task_input" in row and "responses_create_params" not in row:
            raise InputError(
                'a materialized row is {"task_id": {"taskset": "SET", "task_id": "ID"}, "task_input": {...}}: this one '
                "is neither that nor a flat row"
            )
        row["responses_create_params"] = self._params(row)
        return Task(row, self.routes.route(row), _own_index(row))

    def is_deterministic(self, task: Task) -> bool:
        """Whether all rollouts of a task have the same sampling: temperature 0, or the same seed."""
        params = task.row.get("responses_create_params") or {}
        return params.get("temperature") == 0 or (params.get("seed") is not None and not self.add_seed)

    def _episode(self, row: Json, server: str | None) -> Task:
        """The task of a materialized row.

        Raises:
            InputError: no environment server is known for it, or a parameter would change the environment's own input.
        """
        if server is None and not self.routes.serves_all:
            taskset = row["task_id"]["taskset"]
            raise InputError(
                f"no environment server for the task set {taskset!r}: give "
                f"+environment_server_routes='{{{dumps(taskset).decode()}: \"NAME\"}}', or +agent_url=URL"
            )
        settings = {"responses_create_params": self.overrides, "num_repeats_add_seed": self.add_seed}
        settings["prompt_config"] = self.template
        for name, value in settings.items():
            if value:
                raise InputError(f"{name} cannot change a materialized row, whose input belongs to its environment")
        return Task(row, self.routes.route_to(server or ANY_AGENT), _own_index(row), is_episode=True)

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
            raise InputError(f"responses_create_params must be an object, got {type_name(own)}")
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


def _parse_object(line: bytes, *, has_long: bool | None) -> Json:
    try:
        row = loads(line, has_long=has_long)
    except ValueError as error:
        # Parsers count lines within the text that they get, which is always one line here.
        reason = str(error).replace("line 1 ", "").split(" (char ")[0]
        raise InputError(f"not JSON: {reason}") from error
    if not isinstance(row, dict):
        raise InputError(f"a row must be a JSON object, got {type_name(row)}")
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
