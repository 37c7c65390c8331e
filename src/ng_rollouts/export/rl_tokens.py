"""The recipe `rl_tokens`: rows of token ids, for trainers that must not encode the text again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from ng_rollouts.console import counted
from ng_rollouts.errors import InputError
from ng_rollouts.export.advantages import advantages_of
from ng_rollouts.export.config import ExportConfig
from ng_rollouts.export.example import Example, Skipped
from ng_rollouts.export.formats import ExportFormat, ExportRows
from ng_rollouts.export.token_sequences import (
    TokenSequence,
    UnusableTokensError,
    has_token_ids,
    sequences_of,
    turns_of,
)
from ng_rollouts.metrics.running_stats import RunningStats
from ng_rollouts.types import Json, RolloutKey, key_of


class RlTokens(ExportFormat):
    """Reinforcement learning on the tokens that were sampled: one row for each sequence of a rollout."""

    column_types: ClassVar[Json] = {
        **dict.fromkeys(("prompt_ids", "response_ids", "loss_mask"), ("list", "int32")),
        "logprobs": ("list", "float32"),
        **dict.fromkeys(("reward", "advantage"), "float"),
        "group_id": None,
        **dict.fromkeys(("rollout_index", "row_index", "num_rows"), "int"),
        "truncated": "bool",
        "weight_version": "text",
    }

    def __init__(self, config: ExportConfig) -> None:
        super().__init__(config)
        self._members_seen = self._without_ids = self._groups_without_signal = 0
        self._exported = self._rows = self._tokens = self._sampled = 0
        self._forks = Skipped()
        self._spread = RunningStats()

    def _examples(self, group: list[Example]) -> ExportRows:
        members = self._members(self._with_first_prompt(group))
        group_id = self._group_id(group[0].row)
        advantages = advantages_of([reward for _, _, reward in members], self.config.advantage)
        self._count(advantages)
        for (number, example, reward), advantage in zip(members, advantages, strict=True):
            sequences = self._sequences(example, f"group {group_id}, rollout {number}")
            for row_index, sequence in enumerate(sequences):
                row = {
                    "prompt_ids": sequence.prompt_ids,
                    "response_ids": sequence.response_ids,
                    "loss_mask": sequence.loss_mask,
                    "logprobs": sequence.logprobs,
                    "reward": reward,
                    "advantage": advantage,
                    "group_id": group_id,
                    "rollout_index": number,
                    "row_index": row_index,
                    "num_rows": len(sequences),
                    "truncated": example.stats.truncated,
                    "weight_version": _weight_version(example.response, example.row),
                }
                # A split must not divide a group, also if its rows have no prompt as text.
                yield row, example.prompt or [{"group_id": group_id}]

    def _members(self, group: list[Example]) -> list[tuple[int, Example, float]]:
        """The valid rollouts of a group that have a score, each with its index and the score."""
        members = []
        for place, example in enumerate(group):
            score = example.scores.get(self.config.score)
            if example.is_masked or score is None:
                self.skipped["masked" if example.is_masked else f"no {self.config.score}"] += 1
            else:
                key = self._key(example.row)
                members.append((key.rollout_index if key else place, example, score))
        return members

    def _sequences(self, example: Example, name: str) -> list[TokenSequence]:
        """The sequences of a rollout; none if it is left out, which is counted.

        Args:
            name: the rollout in error messages.
        """
        self._without_ids += not has_token_ids(example.response.get("output"))
        try:
            sequences = self._usable_sequences(example, name)
        except UnusableTokensError as error:
            self.skipped[str(error)] += 1
            return []
        self._exported += 1
        for sequence in sequences:
            self._tokens += len(sequence.prompt_ids) + len(sequence.response_ids)
            self._sampled += sum(sequence.loss_mask)
        self._rows += len(sequences)
        return sequences

    def _usable_sequences(self, example: Example, name: str) -> list[TokenSequence]:
        if example.response.get("status") not in (None, "completed", "incomplete"):
            raise UnusableTokensError("failed responses")
        if example.stats.truncated and self.config.keep_truncated is False:
            raise UnusableTokensError("truncated")
        sequences, drifts = sequences_of(turns_of(example.response.get("output")))
        if drifts and self.config.on_drift == "drop":
            raise UnusableTokensError(drifts[0][1])
        if drifts and self.config.on_drift == "fail":
            turn, reason = drifts[0]
            raise InputError(
                f"{name}, turn {turn}: {reason}: +on_drift=fork begins a new row there, +on_drift=drop leaves such "
                "rollouts out"
            )
        self._forks.update(reason for _, reason in drifts)
        return sequences

    def _key(self, row: Json) -> RolloutKey | None:
        """The key of a row; None without one, or if the groups are not those of the task index."""
        return key_of(row) if self.config.group_by in ("auto", "task_index") else None

    def _group_id(self, row: Json) -> Any:
        """The task index or `prompt_id` that the rows of a group have in common, or else the number of the group."""
        if key := self._key(row):
            return key.task_index
        by_prompt = self.config.group_by in ("auto", "prompt_id")
        return row["prompt_id"] if by_prompt and row.get("prompt_id") is not None else self.groups - 1

    def _count(self, advantages: list[float | None]) -> None:
        """Add a group to the statistics of advantages."""
        self._members_seen += len(advantages)
        if values := [each for each in advantages if each is not None]:
            self._spread.add(RunningStats.of(values).sd)
            self._groups_without_signal += not any(values)

    def check(self, source: Path) -> None:
        super().check(source)
        if self._members_seen and self._without_ids == self._members_seen:
            raise InputError(
                f"no rollout of {source} has token ids: collect with +token_ids=required, over a server that sends "
                "them, such as vLLM or SGLang (docs/model-servers.md)"
            )

    def summary_lines(self) -> Iterator[str]:
        yield f"Created {counted(self._rows, 'row')} from {counted(self._exported, 'rollout')}"
        yield f"Sampled tokens: {self._sampled} of {self._tokens} ({100 * self._share:.1f}%)"
        for reason, number in self._forks.most_common():
            yield f"New rows within a rollout: {number} {reason}"
        if self._spread.count:
            yield f"Groups whose advantages are all 0: {self._groups_without_signal} of {self._spread.count}"

    def statistics(self) -> Json:
        return {
            "rows": self._rows,
            "exported_rollouts": self._exported,
            "forks": dict(self._forks.most_common()),
            "sampled_tokens": self._sampled,
            "share_with_loss": self._share,
            "mean_advantage_sd": self._spread.mean if self._spread.count else None,
            "groups_without_advantage": self._groups_without_signal,
        }

    @property
    def _share(self) -> float:
        """The share of the tokens of all rows that have a loss."""
        return self._sampled / self._tokens if self._tokens else 0.0


def _weight_version(response: Json, row: Json) -> str | None:
    """The version of the model's weights; None if neither has one.

    SGLang has it in `metadata` of a chat completion and in `meta_info` of a generation.
    """
    for holder in (response.get("metadata"), response.get("meta_info"), response, row):
        version = holder.get("weight_version") if isinstance(holder, dict) else None
        if isinstance(version, (str, int)):
            return str(version)
    return None
