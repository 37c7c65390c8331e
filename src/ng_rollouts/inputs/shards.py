"""Shards: the part of an input that one command collects when several commands share the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.errors import ConfigError
from ng_rollouts.storage.compression import base_name, is_compressed


@dataclass(frozen=True, slots=True)
class Shard:
    """Every `count`th task, starting with task `index`. Groups are never split between shards."""

    index: int
    count: int

    def has(self, task_index: int) -> bool:
        """Whether a task belongs to the shard."""
        return task_index % self.count == self.index

    def output_path(self, path: str) -> str:
        """The path of the shard's output, from the path of the run's output."""
        output = Path(path)
        # Padded with zeros, so that a sorted glob of all shards is in numerical order.
        number = str(self.index).zfill(len(str(self.count - 1)))
        compression = output.suffix if is_compressed(output) else ""
        return str(output.with_name(f"{base_name(output)}_shard_{number}_of_{self.count}.jsonl{compression}"))


def shard_of(config: CollectConfig, environment: Mapping[str, str]) -> Shard | None:
    """The shard of a configuration; None if the run is not sharded.

    Raises:
        ConfigError: `shard_from=slurm`, but the environment does not define a shard.
    """
    if config.shard_from == "slurm":
        return _shard_from_slurm(config.num_shards, environment)
    if config.shard_index is None or config.num_shards is None:
        return None
    return Shard(config.shard_index, config.num_shards)


def _shard_from_slurm(num_shards: int | None, environment: Mapping[str, str]) -> Shard:
    """The shard of an element of a job array; within a single job, of a task of `srun`.

    Source: the "Job Array Support" page of Slurm, and OUTPUT ENVIRONMENT VARIABLES of srun(1).
    """
    slurm = {name: int(value) for name, value in environment.items() if name.startswith("SLURM_") and value.isdecimal()}
    if (index := slurm.get("SLURM_ARRAY_TASK_ID")) is not None:
        minimum, maximum = slurm.get("SLURM_ARRAY_TASK_MIN", 0), slurm.get("SLURM_ARRAY_TASK_MAX", index)
        # Only an array of 0-N without gaps gives the number of shards. An array such as 2-2 may be one resubmitted
        # element of a larger one.
        if num_shards is None and (minimum != 0 or maximum + 1 != slurm.get("SLURM_ARRAY_TASK_COUNT")):
            raise ConfigError(
                f"shard_from=slurm: the job array has elements from {minimum} to {maximum}, so the number of shards "
                "is not known: add +num_shards=N, and number the elements from 0 (for 4 shards, --array=0-3)"
            )
        count = maximum + 1 if num_shards is None else num_shards
    elif (index := slurm.get("SLURM_PROCID")) is not None:
        count = slurm.get("SLURM_NTASKS", 1) if num_shards is None else num_shards
    else:
        raise ConfigError(
            "shard_from=slurm: neither SLURM_ARRAY_TASK_ID nor SLURM_PROCID is set: run the command in a Slurm job, "
            "or use +shard_index=I +num_shards=N"
        )
    if not index < count:
        raise ConfigError(
            f"shard_from=slurm: shard index {index} must be less than num_shards={count}: number the elements from 0"
        )
    return Shard(index, count)
