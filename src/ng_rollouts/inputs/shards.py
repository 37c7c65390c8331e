"""Which tasks are this command's, when several commands share an input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import ConfigError
from ng_rollouts.storage.compression import base_name, is_compressed


@dataclass(frozen=True, slots=True)
class Shard:
    """Every `count`th task, from task `index` on: whole groups, and no two shards have one in common."""

    index: int
    count: int

    def has(self, task_index: int) -> bool:
        """Whether a task belongs to it."""
        return task_index % self.count == self.index

    def named(self, path: str) -> str:
        """The name of its own output."""
        output = Path(path)
        number = str(self.index).zfill(len(str(self.count - 1)))
        packing = output.suffix if is_compressed(output) else ""
        return str(output.with_name(f"{base_name(output)}_shard_{number}_of_{self.count}.jsonl{packing}"))


def shard_of(config: CollectConfig, environment: Mapping[str, str]) -> Shard | None:
    """The shard that is asked for, if any.

    Raises:
        ConfigError: Slurm is to tell, and does not.
    """
    if config.shard_from == "slurm":
        return _of_slurm(config.num_shards, environment)
    if config.shard_index is None or config.num_shards is None:
        return None
    return Shard(config.shard_index, config.num_shards)


def _of_slurm(num_shards: int | None, environment: Mapping[str, str]) -> Shard:
    """By the element of a job array; within a job, by the rank of a task of `srun`."""
    known = {name: int(value) for name, value in environment.items() if name.startswith("SLURM_") and value.isdecimal()}
    if (index := known.get("SLURM_ARRAY_TASK_ID")) is not None:
        least, most = known.get("SLURM_ARRAY_TASK_MIN", 0), known.get("SLURM_ARRAY_TASK_MAX", index)
        if num_shards is None and (least != 0 or most + 1 != known.get("SLURM_ARRAY_TASK_COUNT")):
            raise ConfigError(
                f"shard_from=slurm: the job array has elements from {least} to {most}, which does not tell how many "
                "shards there are: add +num_shards=N, and number elements from 0 (--array=0-N-1)"
            )
        count = most + 1 if num_shards is None else num_shards
    elif (index := known.get("SLURM_PROCID")) is not None:
        count = known.get("SLURM_NTASKS", 1) if num_shards is None else num_shards
    else:
        raise ConfigError(
            "shard_from=slurm: there is neither SLURM_ARRAY_TASK_ID nor SLURM_PROCID: is this a Slurm job?"
        )
    if not index < count:
        raise ConfigError(f"shard_from=slurm: element {index} of a job array is none of num_shards={count}, from 0")
    return Shard(index, count)
