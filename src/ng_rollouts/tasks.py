"""Input JSONL -> tasks -> rollouts, lazily, in aabbcc order.

One pass checks every row and makes the plan; a second one hands out rollouts as they are wanted. Neither holds
more than a row, and a plan costs nothing per row unless rows differ in repeats or bring their own task index.
"""

from __future__ import annotations

import hashlib
import stat
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from ng_rollouts.config import check_sampling
from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.jsonlines import loads
from ng_rollouts.prompts import Template
from ng_rollouts.records import Json, Key, Rollout

ANY_AGENT = "agent"
"""Names the agent of rows that name none, when one address serves every row."""

_REASONS_TOLD = 50
"""This many kinds of bad lines are told with their reason; the numbers of the others follow."""

_PROMPT_ID_FIELDS = ("prompt_id", "id", "task_id", "uuid")


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
class Recipe:
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

    def task(self, line: bytes) -> Task:
        """Read one line of the input.

        Raises:
            InputError: what is wrong with it.
        """
        row = _parse(line)
        row["responses_create_params"] = self._params(row)
        agent = self._agent(row)
        return Task(row=row, agent=agent, index=_brought_index(row), repeats=self._repeats_for(agent))

    def makes_alike(self, task: Task) -> bool:
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


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a run is to collect, known before anything is sent.

    Attributes:
        rows: input rows, after `limit`.
        rollouts: all of their rollouts.
        agents: rows by agent name.
        repeated_alike: rows with more than one rollout whose temperature is 0 or whose seed is fixed.
        digest: of all rows, as they are in the input.
        first_digest: of as many first rows as was asked for; None if there are fewer.
    """

    rows: int = 0
    rollouts: int = 0
    agents: Counter[str] = field(default_factory=Counter)
    repeated_alike: int = 0
    digest: str = ""
    first_digest: str | None = None
    _repeats: int | array[int] = 0
    _indices: array[int] | None = None
    _indices_sorted: bool = True

    def add(self, task: Task) -> None:
        """Append one task, in input order."""
        self._add_repeats(task.repeats)
        self._add_index(task.index)
        self.rows += 1
        self.rollouts += task.repeats
        self.agents[task.agent] += 1

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """For each row in order: its task index, the position of its first rollout, and how many it has."""
        start = 0
        for row in range(self.rows):
            repeats = self._repeats if isinstance(self._repeats, int) else self._repeats[row]
            yield row if self._indices is None else self._indices[row], start, repeats
            start += repeats

    def rollout_keys(self) -> Iterator[Key]:
        """The key of every position, in order."""
        taken: Counter[int] = Counter()
        for task_index, _, repeats in self.spans():
            if self._indices_sorted and task_index not in taken:
                taken.clear()
            first = taken[task_index]
            taken[task_index] += repeats
            for rollout_index in range(first, first + repeats):
                yield Key(task_index, rollout_index)

    def locator(self) -> Callable[[Key], int | None]:
        """Finds the position of a key; None for a key that is not planned."""
        if self._indices is None and isinstance(self._repeats, int):
            rows, repeats = self.rows, self._repeats

            def by_arithmetic(key: Key) -> int | None:
                task_index, rollout_index = key
                planned = 0 <= task_index < rows and 0 <= rollout_index < repeats
                return task_index * repeats + rollout_index if planned else None

            return by_arithmetic
        return {key: position for position, key in enumerate(self.rollout_keys())}.get

    @property
    def tasks_share_rows(self) -> bool:
        """Whether rows may share a task, so that more repeats would renumber rollouts."""
        return self._indices is not None and len(set(self._indices)) < self.rows

    def whole(self, done: Callable[[int], bool]) -> Iterator[bool]:
        """For every position in order, whether all rollouts of its group are done."""
        spans = ((task_index, range(start, start + count)) for task_index, start, count in self.spans())
        if self._indices is None:
            for _, span in spans:
                yield from repeat(all(map(done, span)), len(span))
            return
        lacking = {task_index for task_index, span in spans if not all(map(done, span))}
        for task_index, _, count in self.spans():
            yield from repeat(task_index not in lacking, count)

    def _add_repeats(self, repeats: int) -> None:
        if self.rows == 0:
            self._repeats = repeats
        elif isinstance(self._repeats, int):
            if repeats == self._repeats:
                return
            self._repeats = array("q", [self._repeats]) * self.rows
            self._repeats.append(repeats)
        else:
            self._repeats.append(repeats)

    def _add_index(self, brought: int | None) -> None:
        index = self.rows if brought is None else brought
        if self._indices is None:
            if index == self.rows:
                return
            self._indices = array("q", range(self.rows))
        if self._indices and index < self._indices[-1]:
            self._indices_sorted = False
        self._indices.append(index)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """The input: a file of tasks and the recipe that reads it."""

    path: Path
    recipe: Recipe
    limit: int | None = None
    shown_as: str = ""

    @property
    def name(self) -> str:
        """The input, as it was asked for."""
        return self.shown_as or str(self.path)

    def plan(self, first_rows: int | None = None) -> Plan:
        """Check every row and count what is to be collected.

        Args:
            first_rows: have the digest of so many first rows too.

        Raises:
            InputError: the file is missing, empty, or has bad lines, all of which are named.
        """
        plan = Plan()
        bad: list[tuple[int, str]] = []
        kinds = set()
        digest = hashlib.blake2b(digest_size=16)
        for number, line in self._lines():
            digest.update(line + b"\n")
            try:
                task = self.recipe.task(line)
            except InputError as error:
                bad.append((number, str(error)))
                continue
            kinds.add(task.index is None)
            plan.add(task)
            plan.repeated_alike += task.repeats > 1 and self.recipe.makes_alike(task)
            if plan.rows == first_rows:
                plan.first_digest = digest.hexdigest()
        plan.digest = digest.hexdigest()
        if not bad and len(kinds) == 2:
            bad = list(self._colliding_indices())
        if bad:
            raise InputError(_tell(self.name, bad))
        if not plan.rows:
            raise InputError(f"input_jsonl_fpath {self.name} has no rows: put one JSON object on each line")
        return plan

    def rollouts(self, plan: Plan) -> Iterator[Rollout]:
        """Every planned rollout, in the finished order.

        Raises:
            InputError: the file changed since it was checked.
        """
        keys = plan.rollout_keys()
        position = 0
        for number, line in self._lines():
            task = self._task_again(number, line)
            for key in islice(keys, task.repeats):
                yield Rollout(
                    position=position,
                    key=key,
                    agent=task.agent,
                    prompt_id=_prompt_id(task.row, key),
                    row=task.row,
                    seed=self._seed(task.row, key),
                )
                position += 1
        if position != plan.rollouts:
            raise InputError(f"input_jsonl_fpath {self.name} changed while it was being read")

    def _colliding_indices(self) -> Iterator[tuple[int, str]]:
        """Rows that are given, by their position, a task index that another row brings."""
        rows = [(number, self.recipe.task(line).index) for number, line in self._lines()]
        brought = {index: number for number, index in rows if index is not None}
        for position, (number, index) in enumerate(rows):
            if index is None and position in brought:
                message = f"its task index is its position, {position}, which line {brought[position]} brings"
                yield number, f"{message}: give every row a _ng_task_index, or none"

    def _task_again(self, number: int, line: bytes) -> Task:
        try:
            return self.recipe.task(line)
        except InputError as error:
            message = f"input_jsonl_fpath {self.name} changed while it was being read: line {number}: {error}"
            raise InputError(message) from error

    def _seed(self, row: Json, key: Key) -> int | None:
        if not self.recipe.add_seed:
            return None
        return int(row["responses_create_params"].get("seed") or 0) + key.rollout_index

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """The rows' lines with their physical numbers: no blank ones, no byte-order mark, `limit` heeded."""
        try:
            with self.path.open("rb") as file:
                numbered = enumerate(file, 1)
                stripped = ((number, (_unmarked(line) if number == 1 else line).strip()) for number, line in numbered)
                yield from islice((pair for pair in stripped if pair[1]), self.limit)
        except OSError as error:
            raise InputError(f"input_jsonl_fpath {self.name} cannot be read: {error.strerror}") from error


@contextmanager
def readable_twice(path: str) -> Iterator[Path]:
    """The input as a file that can be read again: itself, or a copy of a pipe.

    Raises:
        InputError: there is no such file.
    """
    source = Path(path).expanduser()
    try:
        mode = source.stat().st_mode
    except OSError as error:
        raise InputError(f"input_jsonl_fpath {path} cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"input_jsonl_fpath {path} is a folder: name a JSONL file")
    if stat.S_ISREG(mode):
        yield source
        return
    with tempfile.NamedTemporaryFile(prefix="ng_rollouts_input_", suffix=".jsonl") as copy, source.open("rb") as pipe:
        while chunk := pipe.read(1 << 20):
            copy.write(chunk)
        copy.flush()
        yield Path(copy.name)


def _unmarked(line: bytes) -> bytes:
    return line.removeprefix(b"\xef\xbb\xbf")


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


def _prompt_id(row: Json, key: Key) -> str:
    for name in _PROMPT_ID_FIELDS:
        value = row.get(name)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != "":
            return str(value)
    return str(key.task_index)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a bool", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def _tell(name: str, bad: list[tuple[int, str]]) -> str:
    by_reason: dict[str, list[int]] = {}
    for number, reason in bad:
        by_reason.setdefault(reason, []).append(number)
    told = [f"  {_numbered(numbers)}: {reason}" for reason, numbers in islice(by_reason.items(), _REASONS_TOLD)]
    rest = [number for numbers in islice(by_reason.values(), _REASONS_TOLD, None) for number in numbers]
    if rest:
        told.append(f"  and {len(rest)} more, for other reasons: {_numbered(sorted(rest))}")
    lines = "1 bad line" if len(bad) == 1 else f"{len(bad)} bad lines"
    return "\n".join([f"input_jsonl_fpath {name} has {lines}, so nothing was sent:", *told])


def _numbered(numbers: list[int]) -> str:
    return f"line{'s' if len(numbers) > 1 else ''} {_ranges(numbers)}"


def _ranges(numbers: list[int]) -> str:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
