"""`ng_reward_profile`: statistics of every task and agent in a file of rollouts.

The command, its files and its keys are those of NeMo Gym; this program adds fields.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import nlargest, nsmallest
from pathlib import Path
from typing import NoReturn

from ng_rollouts.chat import chat_input, last_user_text
from ng_rollouts.cli.simple_command import run_command
from ng_rollouts.config.fields import REQUIRED, check_fields, param
from ng_rollouts.console import counted, log, print_json, print_result, prints_only_json
from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.jsonl import dumps
from ng_rollouts.metrics.aggregate import AgentStats, group_metrics, measured
from ng_rollouts.metrics.diversity import Diversity
from ng_rollouts.metrics.score_stats import scores_of
from ng_rollouts.outputs.expected_counts import ExpectedCounts, expected_counts
from ng_rollouts.outputs.path_checks import check_not_an_output, check_replaceable, check_side_files, writable
from ng_rollouts.outputs.paths import output_paths
from ng_rollouts.outputs.reader import Group, check_readable, groups_of, scan
from ng_rollouts.storage.atomic import replacing, write_json
from ng_rollouts.storage.compression import base_name
from ng_rollouts.storage.lock import locked
from ng_rollouts.types import Json

_ROLLOUT_FIELDS = frozenset({"_ng_task_index", "_ng_rollout_index", "_ng_attempt_index", "response", "output"})
"""Fields that differ between the rollouts of a task, and are left out of its sample."""

_PROMPT_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Compute statistics of every task, repeat and agent (<stem>_reward_profiling.jsonl and two .json files)."""

    rollouts_jsonl_fpath: str = param(REQUIRED, "File of rollouts, of this program or of NeMo Gym.")
    materialized_inputs_jsonl_fpath: str | None = param(
        None, "Materialized inputs to count missing rollouts by (null: <stem>_materialized_inputs.jsonl, if it exists)."
    )
    allow_partial_rollouts: bool = param(False, "Accept missing rollouts; by default they end with exit code 1.")
    answer_key: str | None = param(None, "Field whose majority counts for majority@k (null: extracted_answer).")
    sort_by: str = param("hardest", "Order of the table.", choices=("hardest", "easiest", "variable"))
    top: int = param(10, "Rows of the table on the terminal (0: no table).", minimum=0)
    score: str = param("reward", "Score to sort the table by.")
    quiet: bool = param(False, "Print JSON alone to stdout, and errors alone to stderr.")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """A task in the table.

    Attributes:
        mean, sd, best: of the scores of its rollouts.
        prompt: the beginning of its last user message.
    """

    mean: float
    sd: float
    task_index: int
    rollouts: int
    best: float
    prompt: str


def main() -> NoReturn:
    """Run `ng_reward_profile`."""
    run_command(
        "ng_reward_profile", ProfileConfig, run, example="+rollouts_jsonl_fpath=rollouts.jsonl +sort_by=easiest"
    )


def run(config: ProfileConfig) -> int:
    """Write the files, print the table, and return the exit code: 1 if rollouts are missing.

    Raises:
        InputError: the file has no rollouts.
        ConfigError: no rollout has the score or the answer field.
    """
    source = Path(config.rollouts_jsonl_fpath).expanduser()
    check_readable("rollouts_jsonl_fpath", source)
    check_side_files(output_paths(str(source)))
    per_task = source.with_name(f"{base_name(source)}_reward_profiling.jsonl")
    agents = source.with_name(f"{base_name(source)}_agent_metrics.json")
    repeats = source.with_name(f"{base_name(source)}_repeat_level_metrics.json")
    for derived in (per_task, agents, repeats):
        check_replaceable(derived, "the profile")
        check_not_an_output(derived, "the profile")
    scanned = scan(source)
    profile = Profile(expected_counts(source, config.materialized_inputs_jsonl_fpath, scanned))
    table = Table(config)
    with writable(per_task), locked(per_task), replacing(per_task) as temporary:
        with temporary.open("wb") as file:
            for group in groups_of(source, config.answer_key, scanned, with_last_messages=True):
                if row := profile.of_task(group):
                    file.write(dumps(row) + b"\n")
                    table.add(group)
        # Inside the block: an error leaves the profile of an earlier command as it is.
        _check(profile, source, config)
    write_json(agents, profile.of_agents())
    write_json(repeats, profile.of_repeats())
    for line in (*table.lines(), *profile.summary_line()):
        print_result(line)
    print_result(f"Reward profiling outputs: {per_task}")
    print_result(f"Agent-level metrics: {agents}")
    print_result(f"Repeat-level metrics: {repeats}")
    if prints_only_json():
        print_json(profile.of_agents())
    if (missing := profile.missing) and not config.allow_partial_rollouts:
        are_missing = counted(missing, "rollout", "is missing", "are missing")
        log(f"error: {are_missing}: collect the rest, or add +allow_partial_rollouts=true")
        return 1
    return 0


def _check(profile: Profile, source: Path, config: ProfileConfig) -> None:
    if not profile.aggregates:
        raise InputError(f"{source} has no rollouts")
    for aggregate in profile.aggregates.values():
        aggregate.end()
    names = sorted({name for aggregate in profile.aggregates.values() for name in aggregate.columns})
    if config.top and config.score not in names and profile.rollouts:
        raise ConfigError(
            f"no rollout of {source} has the score {config.score!r}: available scores: {', '.join(names) or 'none'}"
        )
    if config.answer_key and not profile.answers.count:
        raise ConfigError(f"no rollout of {source} has the field answer_key={config.answer_key}")


@dataclass(slots=True)
class Profile:
    """Statistics by task and by agent.

    Attributes:
        planned: the rollouts that the manifest or the materialized inputs expect.
        aggregates: statistics by agent.
        answers, completions: how many extracted answers and last messages are distinct.
        missing_in_groups: planned rollouts that are missing from tasks in the file.
    """

    planned: ExpectedCounts
    aggregates: dict[str, AgentStats] = field(default_factory=dict)
    answers: Diversity = field(default_factory=lambda: Diversity("answers", is_within_groups=True))
    completions: Diversity = field(default_factory=lambda: Diversity("completions"))
    missing_in_groups: int = 0

    @property
    def rollouts(self) -> int:
        """Rollouts in the file whose result is a measurement."""
        return sum(aggregate.rollouts for aggregate in self.aggregates.values())

    @property
    def masked(self) -> Counter[str]:
        """Rollouts in the file whose result is not a measurement, by reason."""
        return sum((aggregate.masked for aggregate in self.aggregates.values()), Counter[str]())

    @property
    def missing(self) -> int:
        """Planned rollouts that are not in the file, including those of tasks that are missing completely."""
        # Tasks that are missing completely are only known from the total of a plan.
        return max(self.missing_in_groups, (self.planned.total or 0) - self.rollouts - self.masked.total())

    def of_task(self, group: Group) -> Json | None:
        """The statistics of a task, as an object with NeMo Gym's keys; None if all its rollouts are masked."""
        scores, parts = scores_of(group.stats), group.by_agent()
        for agent, stats in parts.items():
            self.aggregates.setdefault(agent, AgentStats()).add(stats, scores if len(parts) == 1 else None)
        planned = max(self.planned.of_task(group.task_index, agent) for agent in parts)
        # The file may have more rollouts than its plan; a task with rollout index 3 has at least 4.
        expected = max(planned, group.indices[-1] + 1)
        missing = expected - len(group.stats)
        self.missing_in_groups += missing
        valid = measured(group.stats)
        if not valid:
            return None
        # As in NeMo Gym, masked rollouts are not expected.
        expected -= len(group.stats) - len(valid)
        return {
            **group_metrics(group.task_index, valid, scores),
            **self.completions.add_group(_valid_messages(group)),
            **self.answers.add_group([stats.answer for stats in group.stats if stats.answer is not None]),
            "prompt_head": _prompt_of(group.first),
            "rollout_infos": _infos(group),
            "sample": {name: value for name, value in group.first.items() if name not in _ROLLOUT_FIELDS},
            "num_rollouts": len(valid),
            "expected_num_rollouts": expected,
            "missing_num_rollouts": missing,
            "reward_profile_completion_pct": 100 * len(valid) / expected,
        }

    def of_agents(self) -> list[Json]:
        """NeMo Gym's list with the metrics of each agent and its name, and additional `statistics`."""
        for aggregate in self.aggregates.values():
            aggregate.end()
        return [
            {**aggregate.nemo_gym_metrics(), "statistics": aggregate.statistics(), "agent_ref": {"name": name}}
            for name, aggregate in self.aggregates.items()
        ]

    def of_repeats(self) -> list[Json]:
        """NeMo Gym's list with the metrics of each repeat, for agents with more than one."""
        return [
            {"agent_ref": {"name": name}, **entry}
            for name, aggregate in self.aggregates.items()
            for entry in aggregate.repeat_level_metrics()
        ]

    def summary_line(self) -> Iterator[str]:
        """The share of planned rollouts in the file, and how many texts are distinct."""
        rollouts, total = self.rollouts, self.rollouts + self.missing
        yield f"Reward profile completion: {rollouts}/{total} rollout rows ({100 * rollouts / max(1, total):.2f}%)"
        if masked := self.masked:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in masked.most_common())
            yield f"Masked, in no statistic: {counted(masked.total(), 'rollout')} ({reasons})"
        yield from self.completions.summary_line()
        yield from self.answers.summary_line()


class Table:
    """The hardest, easiest or most variable tasks."""

    def __init__(self, config: ProfileConfig) -> None:
        self._config = config
        self._rows: list[Row] = []

    def add(self, group: Group) -> None:
        """Add a task."""
        scores = [stats.scores[self._config.score] for stats in group.stats if self._config.score in stats.scores]
        if not scores or not self._config.top:
            return
        mean = math.fsum(scores) / len(scores)
        # The sample standard deviation, with n - 1; 0 for a single rollout.
        sd = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / max(1, len(scores) - 1))
        self._rows.append(Row(mean, sd, group.task_index, len(scores), max(scores), _prompt_of(group.first)))
        # Tasks that cannot be displayed are dropped now and then, so that memory does not grow with the file.
        if len(self._rows) > 20 * self._config.top:
            self._rows = self._top_rows()

    def lines(self) -> Iterator[str]:
        """The table as lines, its header first."""
        if self._rows:
            order = f"{self._config.sort_by} by {self._config.score}"
            yield f"{'task':>8} {'n':>4} {'mean':>7} {'sd':>7} {'best':>7}  prompt ({order})"
        for row in self._top_rows():
            statistics = f"{row.mean:>7.3f} {row.sd:>7.3f} {row.best:>7.3f}"
            yield f"{row.task_index:>8} {row.rollouts:>4} {statistics}  {row.prompt}"

    def _top_rows(self) -> list[Row]:
        # Ties are in order of task index, so that the table does not depend on the order of the file.
        top = self._config.top
        if self._config.sort_by == "hardest":
            return nsmallest(top, self._rows, key=lambda row: (row.mean, row.task_index))
        if self._config.sort_by == "easiest":
            return nlargest(top, self._rows, key=lambda row: (row.mean, -row.task_index))
        return nlargest(top, self._rows, key=lambda row: (row.sd, -row.task_index))


def _valid_messages(group: Group) -> list[str]:
    """The last messages of the rollouts that are not masked."""
    pairs = zip(group.last_messages, group.stats, strict=True)
    return [text for text, stats in pairs if text is not None and stats.masked is None]


def _infos(group: Group) -> list[Json]:
    """Scores and token counts of each rollout; of a masked one, the reason."""
    return [
        {
            "rollout_id": f"{group.task_index}:{index}",
            "_ng_task_index": group.task_index,
            "_ng_rollout_index": index,
            **stats.scores,
            **stats.tokens,
            **({"masked": stats.masked} if stats.masked else {}),
        }
        for index, stats in zip(group.indices, group.stats, strict=True)
    ]


def _prompt_of(row: Json) -> str:
    """The beginning of the last user message, on one line."""
    params = row.get("responses_create_params")
    text = " ".join(last_user_text(chat_input(params if isinstance(params, dict) else {})).split())
    return text if len(text) <= _PROMPT_CHARACTERS else text[: _PROMPT_CHARACTERS - 1] + "…"


if __name__ == "__main__":
    sys.exit(main())
