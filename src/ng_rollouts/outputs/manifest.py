"""What a run was asked for, kept beside its output, so that a resume can tell whether it is the same run.

The manifest holds what decides results, and what is planned. Addresses, parallelism, time limits and paths are not
in it: they may change between sessions. `num_repeats` and the number of rows may grow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ng_rollouts.errors import OutputError
from ng_rollouts.storage.atomic import write_json

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The fingerprint of a run.

    Attributes:
        rows: input rows that were planned.
        rows_digest: digest of the input's rows.
        rollouts: how many are planned of them; 0 if that is not known.
        input_rows: how many those are: of a shard, more than are planned.
        shard_index, num_shards: which part of the input this is, if it is one.
        num_repeats: rollouts per task, or by agent.
        agent_name: for the rows that name no agent.
        responses_create_params: the overrides.
        num_repeats_add_seed: whether each rollout has a seed of its own.
        prompt_template: the template's messages, if there is one.
        training_view: whether rows carry the training view.
        model: what else decides results of agents in this process: model, verifier, tools.
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
    rollouts: int = 0
    input_rows: int = 0
    shard_index: int | None = None
    num_shards: int | None = None


def read_manifest(path: Path) -> Manifest | None:
    """The manifest that is there, if any.

    Raises:
        OutputError: what is there is no manifest.
    """
    try:
        return manifest_from(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path} cannot be read ({error!r}): remove it to have the rows themselves compared with the input"
        raise OutputError(message) from error


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Put a manifest in place, whole or not at all.

    Raises:
        OSError: it could not be written.
    """
    write_json(path, {"version": _VERSION, **asdict(manifest)})


def differences(then: Manifest, now: Manifest, digest_of_then_rows: str | None) -> Iterator[str]:
    """What keeps a run from going on with an output, each with both values.

    Args:
        then: what the output was collected for.
        now: what is asked for.
        digest_of_then_rows: digest of as many of the present rows as were planned then; None if there are fewer.
    """
    if digest_of_then_rows is None:
        yield f"input rows: {then.input_rows} then, {now.input_rows} now (the number may grow, not shrink)"
    elif digest_of_then_rows != then.rows_digest:
        digests = f"digest {then.rows_digest[:12]} then, {digest_of_then_rows[:12]} now"
        yield f"the first {then.input_rows} input rows: {digests}"
    if _shrinks(then.num_repeats, now.num_repeats):
        yield f"num_repeats: {then.num_repeats} then, {now.num_repeats} now (it may grow, not shrink)"
    for name in ("shard_index", "num_shards", "agent_name", "num_repeats_add_seed", "prompt_template", "training_view"):
        before, after = getattr(then, name), getattr(now, name)
        if before != after:
            yield f"{name}: {_shown(before)} then, {_shown(after)} now"
    of_params = then.responses_create_params, now.responses_create_params
    for prefix, (before, after) in (("responses_create_params.", of_params), ("", (then.model, now.model))):
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                yield f"{prefix}{name}: {_shown(before.get(name))} then, {_shown(after.get(name))} now"


def repeats_for(num_repeats: Any, agent: str) -> int | None:
    """Rollouts of a task of this agent; None if nothing is said of it."""
    if isinstance(num_repeats, dict):
        repeats = num_repeats.get(agent, num_repeats.get("_default"))
        return None if repeats is None else int(repeats)
    return int(num_repeats)


def manifest_from(content: Any) -> Manifest:
    """The manifest of a file's content.

    Raises:
        KeyError, TypeError: it is none.
    """
    content = {
        "model": {},
        "rollouts": _rollouts(content),
        "input_rows": content["rows"],
        "shard_index": None,
        "num_shards": None,
        **content,
    }
    manifest = Manifest(**{field.name: content[field.name] for field in fields(Manifest)})
    if not isinstance(manifest.responses_create_params, dict) or not isinstance(manifest.rows, int):
        raise TypeError("a field has the wrong type")
    return manifest


def _rollouts(content: dict[str, Any]) -> int:
    repeats = content["num_repeats"]
    return int(content["rows"] * repeats) if isinstance(repeats, int) else 0


def _shrinks(then: Any, now: Any) -> bool:
    if isinstance(then, int) and isinstance(now, int):
        return now < then
    if not isinstance(then, dict) and not isinstance(now, dict):
        return bool(then != now)
    agents = {*(then if isinstance(then, dict) else ()), *(now if isinstance(now, dict) else ()), "_default"}
    pairs = [(repeats_for(then, agent), repeats_for(now, agent)) for agent in agents]
    return any(before is not None and (after is None or after < before) for before, after in pairs)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
