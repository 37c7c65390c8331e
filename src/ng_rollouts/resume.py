"""Going on with an output: whether it belongs to this run, what it holds, and what is owed."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field

from ng_rollouts.chat import chat_input
from ng_rollouts.config import CollectConfig
from ng_rollouts.errors import OutputError
from ng_rollouts.failures import FailuresFile
from ng_rollouts.journal import Journal
from ng_rollouts.jsonlines import dumps
from ng_rollouts.manifest import Manifest, differences
from ng_rollouts.metrics import Scores
from ng_rollouts.outputs import OutputPaths
from ng_rollouts.plans import Plan
from ng_rollouts.records import Json, Key, key_of
from ng_rollouts.rows import numbers
from ng_rollouts.tasks import TaskFile


@dataclass(slots=True, kw_only=True)
class Earlier:
    """What earlier sessions left undone.

    Attributes:
        attempts: attempts that failed, by key, of rollouts that are to be tried again.
        left: positions of failed rollouts that are not to be tried again.
    """

    attempts: dict[Key, int] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)


def manifest_of(config: CollectConfig, tasks: TaskFile, plan: Plan) -> Manifest:
    """The fingerprint of what is asked for now."""
    template = tasks.recipe.template
    return Manifest(
        rows=plan.rows,
        rows_digest=plan.digest,
        num_repeats=config.num_repeats,
        agent_name=config.agent_name,
        responses_create_params=config.responses_create_params,
        num_repeats_add_seed=config.num_repeats_add_seed,
        prompt_template=None
        if template is None
        else [[role, list(map(list, parts))] for role, parts in template.messages],
        training_view=config.training_view,
    )


def check_same_run(paths: OutputPaths, then: Manifest, now: Manifest, plan: Plan) -> None:
    """Refuse an output that was collected for something else.

    Raises:
        OutputError: what differs, with both values.
    """
    found = list(differences(then, now, plan.first_digest))
    if not found and plan.tasks_share_rows and then.num_repeats != now.num_repeats:
        found = [f"num_repeats: {then.num_repeats} then, {now.num_repeats} now (rows that share a task fix it)"]
    if found:
        listed = "; ".join(found)
        cure = "ask for the same, name another output, or leave +resume_from_cache out to have this one moved aside"
        raise OutputError(f"{paths.output} was collected for something else: {listed}: {cure}")


def read_back(journal: Journal, plan: Plan, scores: Scores, known: Manifest | None, tasks: TaskFile) -> None:
    """Take over the rows that are there, and their scores.

    Args:
        known: the manifest of the output. Without one, each row is compared with the input.

    Raises:
        OutputError: a row is not planned, or asks something else than the input does.
    """
    locate = plan.locator()
    asked = _Asked(plan, tasks) if known is None else None

    def place(row: Json) -> int | None:
        key = key_of(row)
        position = None if key is None else locate(key)
        if key is None or position is None:
            what = "a row without _ng_task_index and _ng_rollout_index" if key is None else f"a row for {_named(key)}"
            raise OutputError(f"the output to go on with has {what}, which this input does not plan")
        if asked:
            asked.note(position, row)
        if not journal.has(position):
            scores.record(position, numbers(row))
        return position

    journal.read_back(place)
    if asked:
        asked.compare()


def earlier_failures(failures: FailuresFile, plan: Plan, journal: Journal, *, retry: bool) -> Earlier:
    """What failed in earlier sessions: to be tried again, or left as it is and counted as failed."""
    locate = plan.locator()
    earlier = Earlier()
    for key, failure in failures.read_back().items():
        position = locate(key)
        if position is None or journal.has(position):
            continue
        if retry and not failure.terminal:
            earlier.attempts[key] = failure.attempts
        else:
            earlier.left.add(position)
            failures.by_class[failure.failure_class] += 1
    return earlier


class _Asked:
    """What the rows of an output without a manifest asked, to be compared with the input: eight bytes a rollout."""

    def __init__(self, plan: Plan, tasks: TaskFile) -> None:
        self._plan = plan
        self._tasks = tasks
        self._digests = array("Q", [0]) * plan.rollouts

    def note(self, position: int, row: Json) -> None:
        params = row.get("responses_create_params")
        if not isinstance(params, dict):
            return
        self._digests[position] = _digest(params)
        for name, value in self._tasks.recipe.overrides.items():
            if name != "input" and isinstance(value, (int, float, str)) and params.get(name) not in (None, value):
                message = f"responses_create_params.{name}: {params[name]!r} in the output, {value!r} now"
                raise OutputError(f"the output to go on with was collected for something else: {message}")

    def compare(self) -> None:
        for rollout in self._tasks.rollouts(self._plan):
            noted = self._digests[rollout.position]
            if noted and noted != _digest(rollout.row["responses_create_params"]):
                message = f"its row for {_named(rollout.key)} asks something else than the input does"
                raise OutputError(f"the output to go on with was collected for something else: {message}")


def _digest(params: Json) -> int:
    """A number for what is asked, whatever form it is in; never 0."""
    messages = [(message["role"], message["content"]) for message in chat_input({"input": params.get("input")})]
    return int.from_bytes(hashlib.blake2b(dumps(messages), digest_size=8).digest()) | 1


def _named(key: Key) -> str:
    return f"task {key.task_index}, rollout {key.rollout_index}"
