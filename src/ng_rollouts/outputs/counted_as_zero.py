"""Rollouts without a row that count as 0 in metrics: failed ones, and planned ones that left nothing behind.

They are made as rows, like those of NeMo Gym with `count_failure_classes_as_zero` and
`count_missing_rollouts_as_zero`, but only metrics see them. No file changes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ng_rollouts.console import log
from ng_rollouts.metrics.aggregate import by_agent
from ng_rollouts.metrics.result_rows import stats_of
from ng_rollouts.outputs.failures import FailuresFile, failure_class_of
from ng_rollouts.outputs.manifest import Manifest, read_manifest, repeats_for
from ng_rollouts.outputs.paths import OutputPaths
from ng_rollouts.outputs.reader import Group, rows_of
from ng_rollouts.types import MASK, Json, RolloutKey, RolloutStats, agent_of, is_masked, key_of

FAILED, MASKED, MISSING = "failed", "masked", "missing"

_OF_FAILURE = frozenset(("failure_kind", "failure_reason", "responses_create_params"))
_OF_OWN_FAILURE = frozenset(("failure_class", "status", "message", "terminal", "num_attempts", "attempts", "row"))
"""Fields of a failure that describe it. Its other numbers are scores, such as those of a reply without a verdict."""

_NOT_TAKEN = frozenset(("responses_create_params", "response"))
"""Fields of a planned row that are not taken along, because they are large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroRules:
    """Which rollouts count as 0. By default, none do: they are in no metric.

    Attributes:
        names: `failed`, `masked`, `missing`, and failure classes.
    """

    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """The rules for the values of `count_as_zero`."""
        return cls(names=frozenset(names))

    @property
    def counts_missing(self) -> bool:
        """Whether planned rollouts without a row and without a failure count."""
        return MISSING in self.names

    @property
    def adds_rollouts(self) -> bool:
        """Whether rollouts without a row may count: all names but `masked` are about these."""
        return bool(self.names - {MASKED})

    def counts_failure(self, failure_class: object) -> bool:
        """Whether failures of a class count."""
        return FAILED in self.names or failure_class in self.names

    def apply(self, stats: RolloutStats) -> RolloutStats:
        """The statistics of a rollout that was collected, as they count. Its tokens stay."""
        if stats.masked is None or MASKED not in self.names:
            return stats
        return stats._replace(scores={"reward": 0.0}, masked=None, counted_as_zero=MASKED)

    def apply_to_row(self, row: Json) -> Json:
        """The row of a rollout that was collected, as it counts, for metrics that are computed elsewhere."""
        if not is_masked(row) or MASKED not in self.names:
            return row
        kept = {name: value for name, value in row.items() if name[:1] == "_" or not isinstance(value, (int, float))}
        return {**kept, MASK: False, "reward": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A rollout that counts as 0.

    Attributes:
        reason: `failed` or `missing`.
        row: the row that metrics are computed from.
    """

    key: RolloutKey
    reason: str
    row: Json

    @property
    def agent(self) -> str:
        """The name of the rollout's agent."""
        return agent_of(self.row)

    def stats(self, answer_key: str | None = None) -> RolloutStats:
        """The statistics of the row."""
        return stats_of(self.row, answer_key)._replace(counted_as_zero=self.reason)


def counted_rollouts(
    rules: ZeroRules,
    outputs: Sequence[OutputPaths],
    *,
    wanted: Callable[[RolloutKey], bool],
    planned: Iterable[tuple[RolloutKey, Json]],
) -> list[Counted]:
    """The rollouts that count as 0, in the order of their keys.

    Args:
        outputs: the outputs with their side files: failures and materialized inputs.
        wanted: whether the rollout of a key is planned and was not collected.
        planned: key and `agent_ref` of every planned rollout. It is read only if missing rollouts count.

    Raises:
        InputError: a file cannot be read.
    """
    failures = _last_failures(outputs, wanted)
    counted = {key: row for key, (name, row) in failures.items() if rules.counts_failure(name)}
    reasons = dict.fromkeys(counted, FAILED)
    for key, agent_ref in planned if rules.counts_missing else ():
        if wanted(key) and key not in failures:
            counted[key] = _zero_row({"agent_ref": agent_ref}, key)
            reasons[key] = MISSING
    _take_planned_fields(counted, outputs)
    return [Counted(key=key, reason=reasons[key], row=counted[key]) for key in sorted(counted)]


Member = tuple[int, str, RolloutStats]
"""Rollout index, agent and statistics of a rollout."""


def with_members(
    groups: Iterable[Group], rules: ZeroRules, added: dict[int, list[Member]]
) -> Iterator[tuple[int, str, list[RolloutStats]]]:
    """Task index, agent and statistics of each group, with the rollouts that count as 0.

    Args:
        added: further rollouts by task index. Those of tasks without a group are groups by themselves.
    """
    for group in groups:
        members = [*zip(group.indices, group.agents, group.stats, strict=True), *added.pop(group.task_index, ())]
        yield from _by_agent(group.task_index, members, rules)
    for task_index, members in sorted(added.items()):
        yield from _by_agent(task_index, members, rules)


def _by_agent(
    task_index: int, members: list[Member], rules: ZeroRules
) -> Iterator[tuple[int, str, list[RolloutStats]]]:
    ordered = sorted(members, key=lambda member: member[0])
    for agent, stats in by_agent((agent, rules.apply(stats)) for _, agent, stats in ordered).items():
        yield task_index, agent, stats


def added_members(
    rules: ZeroRules, outputs: Sequence[OutputPaths], collected: Container[RolloutKey], answer_key: str | None
) -> dict[int, list[Member]]:
    """The rollouts that count as 0 and those that were set aside, by task index.

    A rollout was set aside because its group is incomplete. If others that count as 0 do not complete it, the whole
    group stays out of the metrics, as in the run itself.

    Args:
        collected: the keys of the rows that are in the metrics anyway.

    Raises:
        InputError: a file cannot be read.
    """
    set_aside = dict(_set_aside(outputs, collected, answer_key))
    counted = counted_rollouts(
        rules,
        outputs,
        wanted=lambda key: key not in collected and key not in set_aside,
        planned=planned_rollouts(outputs),
    )
    added: dict[int, list[Member]] = {}
    for key, (agent, stats) in set_aside.items():
        added.setdefault(key.task_index, []).append((key.rollout_index, agent, stats))
    for rollout in counted:
        member = rollout.key.rollout_index, rollout.agent, rollout.stats(answer_key)
        added.setdefault(rollout.key.task_index, []).append(member)
    sizes = _group_sizes(outputs, {key.task_index for key in set_aside})
    return {task: members for task, members in added.items() if len(members) >= sizes.get(task, 0)}


def _set_aside(
    outputs: Iterable[OutputPaths], collected: Container[RolloutKey], answer_key: str | None
) -> Iterator[tuple[RolloutKey, tuple[str, RolloutStats]]]:
    for _, _, row in rows_of([paths.incomplete for paths in outputs if paths.incomplete.exists()]):
        if (key := key_of(row)) is not None and key not in collected:
            yield key, (agent_of(row), stats_of(row, answer_key))


def _group_sizes(outputs: Iterable[OutputPaths], tasks: set[int]) -> dict[int, int]:
    """The planned number of rollouts of each of these tasks, all of whose collected rollouts were set aside."""
    sizes = Counter(key.task_index for key, _ in _planned_rows(outputs) if key.task_index in tasks)
    manifests = [manifest for paths in outputs if (manifest := read_manifest(paths.manifest))]
    # Without materialized inputs, num_repeats says it. With different numbers by agent, the largest is the safe one.
    repeats = [each.num_repeats for each in manifests]
    largest = max((max(each.values()) if isinstance(each, dict) else each for each in repeats), default=sys.maxsize)
    return {task: sizes[task] or largest for task in tasks}


def planned_rollouts(outputs: Iterable[OutputPaths]) -> Iterator[tuple[RolloutKey, Json]]:
    """Key and `agent_ref` of every planned rollout, by the materialized inputs, or else the manifest of each output."""
    for paths in outputs:
        if paths.materialized_inputs.exists():
            yield from _planned_rows([paths])
        elif (manifest := read_manifest(paths.manifest)) and (agent := _only_agent(paths, manifest)):
            repeats = repeats_for(manifest.num_repeats, agent) or 0
            for task_index in _implied_tasks(manifest):
                for rollout_index in range(repeats):
                    yield RolloutKey(task_index, rollout_index), {"name": agent}
        else:
            known = f"neither {paths.materialized_inputs.name} nor its manifest"
            log(f"warning: missing rollouts of {paths.finished} do not count as 0: {known} says which are planned")


def _planned_rows(outputs: Iterable[OutputPaths]) -> Iterator[tuple[RolloutKey, Json]]:
    for _, _, row in rows_of(_materialized(outputs)):
        if (key := key_of(row)) is not None:
            yield key, row.get("agent_ref") or {}


def _implied_tasks(manifest: Manifest) -> range:
    """The task indices of rows that have none in the input."""
    first, stride = manifest.shard_index or 0, manifest.num_shards or 1
    return range(first, first + manifest.rows * stride, stride)


def _only_agent(paths: OutputPaths, manifest: Manifest) -> str | None:
    """The agent of all planned rollouts. None if a manifest alone does not say which rollouts are planned.

    It does not with several agents, or if tasks have indices by themselves.
    """
    tasks, agents = _implied_tasks(manifest), set[str]()
    for _, _, row in rows_of(_existing(paths)):
        key = key_of(row)
        if key is None or key.task_index not in tasks:
            return None
        agents.add(agent_of(row))
    return agents.pop() if len(agents) == 1 else manifest.agent_name if not agents else None


def _existing(paths: OutputPaths) -> list[Path]:
    """The files with collected rows."""
    return [path for path in dict.fromkeys((paths.finished, paths.output, paths.incomplete)) if path.exists()]


def _materialized(outputs: Iterable[OutputPaths]) -> list[Path]:
    return [paths.materialized_inputs for paths in outputs if paths.materialized_inputs.exists()]


def _last_failures(
    outputs: Iterable[OutputPaths], wanted: Callable[[RolloutKey], bool]
) -> dict[RolloutKey, tuple[str, Json]]:
    """Class and counted row of the last failure of each wanted rollout."""
    rows = (row for paths in outputs for row in FailuresFile(paths.failures).rows())
    keyed = ((key, row) for row in rows if (key := key_of(row)) is not None and wanted(key))
    # A dict keeps the last of equal keys. The whole rows are not kept: each has the prompt of its task.
    return {key: (failure_class_of(row), _zero_row(_scores_of_failure(row), key)) for key, row in keyed}


def _scores_of_failure(failure: Json) -> Json:
    described_by = _OF_FAILURE | _OF_OWN_FAILURE if "attempts" in failure else _OF_FAILURE
    row = {
        name: value
        for name, value in failure.items()
        if name not in described_by and not name.startswith("_ng_failure_")
    }
    if isinstance(response := row.pop("response", None), dict):
        row["response"] = {"usage": response.get("usage")}
    return row


def _zero_row(row: Json, key: RolloutKey) -> Json:
    """A row that counts: with its own reward if it has one, else with 0."""
    reward = row.get("reward")
    return {
        **row,
        "_ng_task_index": key.task_index,
        "_ng_rollout_index": key.rollout_index,
        MASK: False,
        "reward": reward if isinstance(reward, (int, float)) else 0.0,
    }


def _take_planned_fields(counted: Mapping[RolloutKey, Json], outputs: Sequence[OutputPaths]) -> None:
    """Add fields of the planned rows, such as a level of difficulty, so that their means are over the same rollouts.

    Only fields that collected rows of the same agent have are added: any other would become a metric.
    """
    materialized = _materialized(outputs) if counted else []
    fields = _fields_by_agent(outputs) if materialized else {}
    for _, _, planned in rows_of(materialized):
        key = key_of(planned)
        if key is not None and key in counted:
            row = counted[key]
            for name in fields.get(agent_of(row), frozenset()) & planned.keys():
                row.setdefault(name, planned[name])


def _fields_by_agent(outputs: Iterable[OutputPaths]) -> dict[str, set[str]]:
    """The fields of collected rows that may be taken from planned rows, by the agent's name."""
    fields: dict[str, set[str]] = {}
    for _, _, row in rows_of(file for paths in outputs for file in _existing(paths)):
        fields.setdefault(agent_of(row), set()).update(row.keys() - _NOT_TAKEN)
    return {agent: {name for name in names if not name.startswith("_")} for agent, names in fields.items()}
