"""The manifest: the settings that an output was collected with, so that a resume can check that they are the same.

It holds all settings that affect results, and the planned counts. It does not hold addresses, parallelism, time limits
or paths, because they may change between commands. `num_repeats` and the number of rows may grow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

from ng_rollouts.errors import OutputError
from ng_rollouts.jsonl import digest_of, loads
from ng_rollouts.redaction import mask_settings
from ng_rollouts.storage.atomic import write_json

_VERSION = 1

_EQUAL = (
    *("shard_index", "num_shards", "agent_name", "agent_map", "fan_out"),
    *("num_repeats_add_seed", "prompt_template", "training_view"),
)
"""The fields that a resume cannot change."""

THEN_AND_NOW = ("then", "now")
"""Labels of the values of an output and of the run that resumes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The settings and counts that identify a run.

    Attributes:
        rows: number of planned rows. With shards, those of this shard.
        rows_digest: digest of all input rows.
        num_repeats: rollouts per task, or that number by agent name.
        agent_name: agent of all rows, if one was given.
        agent_map, fan_out: the agents that answer rows instead of those that they name.
        responses_create_params: the overrides.
        num_repeats_add_seed: whether each rollout has its own seed.
        prompt_template: messages of the template, if there is one.
        training_view: whether rows have the training view.
        model: other settings that affect the results of agents in this process, such as model, verifier and tools.
        rollouts: number of planned rollouts; 0 if it is not known.
        input_rows: number of input rows. With shards, those of all shards.
        shard_index, num_shards: the part of the input that was planned; None without shards.
    """

    rows: int
    rows_digest: str
    num_repeats: Any
    agent_name: str | None
    responses_create_params: dict[str, Any]
    num_repeats_add_seed: bool
    prompt_template: Any
    training_view: bool
    model: dict[str, Any] = field(default_factory=dict)
    agent_map: dict[str, Any] = field(default_factory=dict)
    fan_out: dict[str, Any] = field(default_factory=dict)
    rollouts: int = 0
    input_rows: int = 0
    shard_index: int | None = None
    num_shards: int | None = None


_TYPES: dict[str, tuple[type, ...]] = {
    "rows": (int,),
    "rows_digest": (str,),
    "num_repeats": (int, dict),
    "agent_name": (str, NoneType),
    "responses_create_params": (dict,),
    "num_repeats_add_seed": (bool,),
    "training_view": (bool,),
    "model": (dict,),
    "agent_map": (dict,),
    "fan_out": (dict,),
    "rollouts": (int,),
    "input_rows": (int,),
    "shard_index": (int, NoneType),
    "num_shards": (int, NoneType),
}
"""The types of the fields in JSON. Other users of the folder may have written the file."""


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None if the file does not exist.

    Raises:
        OutputError: the file is not a valid manifest.
    """
    try:
        return manifest_from(loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path} cannot be read ({error!r}): remove it, and a resume compares the rows with the input"
        raise OutputError(message) from error


def identity_of(manifest: Manifest) -> str:
    """A digest of what must not change on a resume. It is the same for a run whose output grows."""
    content = asdict(manifest)
    for name in ("rows", "num_repeats", "rollouts", "input_rows", "rows_digest"):
        del content[name]
    # Sorted, because the order of parameters is that of a set.
    return digest_of(json.dumps(content, sort_keys=True))


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace a manifest atomically.

    Raises:
        OSError: the manifest could not be written.
    """
    write_json(path, {"version": _VERSION, **asdict(manifest)})


def differences(
    then: Manifest, now: Manifest, digest_of_then_rows: str | None, labels: tuple[str, str] = THEN_AND_NOW
) -> Iterator[str]:
    """The reasons why a run cannot resume an output, each with the values then and now.

    Args:
        then: manifest of the output.
        now: manifest of this run.
        digest_of_then_rows: digest of the first `then.input_rows` rows of the input now; None if there are fewer.
        labels: go after the values of `then` and of `now`.
    """

    def both(before: object, after: object) -> str:
        return f"{before} {labels[0]}, {after} {labels[1]}"

    may_grow = " (it may grow, but not shrink)" if labels == THEN_AND_NOW else ""
    if digest_of_then_rows is None:
        yield f"number of input rows: {both(then.input_rows, now.input_rows)}{may_grow}"
    elif digest_of_then_rows != then.rows_digest:
        digests = both(f"digest {then.rows_digest[:12]}", digest_of_then_rows[:12])
        yield f"the first {then.input_rows} input rows: {digests}"
    if _shrinks(then.num_repeats, now.num_repeats):
        yield f"num_repeats: {both(then.num_repeats, now.num_repeats)}{may_grow}"
    for name in _EQUAL:
        before, after = getattr(then, name), getattr(now, name)
        if before != after:
            yield f"{name}: {both(_format(before), _format(after))}"
    params = then.responses_create_params, now.responses_create_params
    for prefix, (before, after) in (("responses_create_params.", params), ("", (then.model, now.model))):
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                yield f"{prefix}{name}: {both(_format(before.get(name)), _format(after.get(name)))}"


def repeats_for(num_repeats: Any, agent: str) -> int | None:
    """Rollouts per task of an agent; None if `num_repeats` has neither the agent nor `_default`."""
    if isinstance(num_repeats, dict):
        repeats = num_repeats.get(agent, num_repeats.get("_default"))
        return None if repeats is None else int(repeats)
    return int(num_repeats)


def manifest_from(content: Any) -> Manifest:
    """The manifest of parsed JSON.

    Raises:
        KeyError, TypeError: the JSON is not a valid manifest.
    """
    # Fields that earlier versions did not write get the value that they implied. Unknown fields are left out, so that
    # an older version can read a newer manifest.
    content = {
        "model": {},
        "agent_map": {},
        "fan_out": {},
        "rollouts": _rollouts(content),
        "input_rows": content["rows"],
        "shard_index": None,
        "num_shards": None,
        **content,
    }
    for name, kinds in _TYPES.items():
        # `type(...) in`, because a bool is an int as well
        if type(content[name]) not in kinds:
            raise TypeError(f"{name} has the wrong type")
    repeats = content["num_repeats"]
    if isinstance(repeats, dict) and not all(type(each) is int for each in repeats.values()):
        raise TypeError("num_repeats has a value of the wrong type")
    # Masked as those of this run are, because earlier versions wrote them as they were.
    content |= {name: mask_settings(content[name], name) for name in ("responses_create_params", "model")}
    return Manifest(**{field.name: content[field.name] for field in fields(Manifest)})


def _rollouts(content: dict[str, Any]) -> int:
    """Number of planned rollouts, of a manifest without it; 0 if it depends on each row's agent."""
    repeats = content["num_repeats"]
    return int(content["rows"] * repeats) if isinstance(repeats, int) else 0


def _shrinks(then: Any, now: Any) -> bool:
    """Whether some agent has fewer repeats now than then, by values of `num_repeats`."""
    if isinstance(then, int) and isinstance(now, int):
        return now < then
    if not isinstance(then, dict) and not isinstance(now, dict):
        return bool(then != now)
    agents = {*(then if isinstance(then, dict) else ()), *(now if isinstance(now, dict) else ()), "_default"}
    pairs = [(repeats_for(then, agent), repeats_for(now, agent)) for agent in agents]
    return any(before is not None and (after is None or after < before) for before, after in pairs)


def _format(value: Any) -> str:
    """A value as JSON, cut to 120 characters; a prompt template can be long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
