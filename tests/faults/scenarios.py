"""The scenarios: commands, and the files that they find."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from tests.conftest import RESUME, ROOT
from tests.faults.commands import Commands
from tests.faults.files import Files, files_of, key_of, older

_TASKS = ["+agent_name=example_math_agent", "+num_repeats=2", "+input_jsonl_fpath=tasks.jsonl"]
_COLLECT = [*_TASKS, "+limit=6"]

_FAILURE = b"""{"_ng_task_index": 2, "_ng_rollout_index": 1, "agent_ref": {"name": "example_math_agent"}, \
"failure_class": "timeout", "status": null, "message": "m", "terminal": false, "num_attempts": 1}
"""
"""A line of a failures file."""

_FLAKY_AGENT = """
from ng_rollouts.agents.example.app import _reason_and_answer, _run
from ng_rollouts.chat import chat_input

async def answer(row, client):
    if (row["_ng_task_index"], row["_ng_rollout_index"]) == (4, 0):
        raise ValueError("no answer")
    params = row["responses_create_params"]
    return _run(row, params, chat_input(params), _reason_and_answer)
"""
"""The example agent, which fails at one rollout."""

BYSTANDERS: Files = {
    "notes.txt": b"notes\n",
    "r.jsonl.orig": b"{}\n",
    "r_other.jsonl": b"{}\n",
    "s.jsonl.0123abcd.writing": b"another output's",
    "remote/notes.txt": b"notes\n",
}
"""Files that no command may change."""

LEFTOVER = ".00c0ffee.writing"
"""The end of temporary files that a crash has left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A command, and the files that it finds.

    Attributes:
        arguments: of the first command, which has a fault.
        again: of the second, which has none.
        files: the files before the first command, without `BYSTANDERS` and the input.
        inputs: the beginnings of the names of files that it reads, and may not change.
        outputs: files of rollouts that the command writes, by their names without a compression.
        replaced: files that the command replaces: a reader finds the old one or the new one.
        keeps_older: whether rows and files of an older output stay, under a new name.
    """

    name: str
    script: str = "ng_collect_rollouts"
    arguments: Sequence[str]
    again: Sequence[str]
    files: Callable[[Base], Files]
    inputs: tuple[str, ...] = ("tasks", "agent")
    outputs: Sequence[str] = ()
    replaced: Sequence[str] = ()
    keeps_older: bool = True


@dataclass(frozen=True, slots=True)
class Base:
    """Files of commands without faults, from which scenarios make theirs."""

    whole: Files
    smaller: Files
    shards: Files

    def older(self, *keys: tuple[int, int]) -> bytes:
        """Lines with these rows, which are marked as rows of an older output."""
        rows = {key_of(row): row for row in map(json.loads, self.whole["r.jsonl"].splitlines())}
        return b"".join(older(rows[key]) for key in keys)


def tasks() -> bytes:
    """Eight tasks."""
    return b"".join((ROOT / "examples" / "arithmetic.jsonl").read_bytes().splitlines(keepends=True)[:8])


def base_of(commands: Commands, folder: Path) -> Base:
    """Collect the files that scenarios start from."""
    whole, smaller, shards = folder / "whole", folder / "smaller", folder / "shards"
    for each in (whole, smaller, shards):
        each.mkdir()
        (each / "tasks.jsonl").write_bytes(tasks())
    run = "ng_collect_rollouts"
    ended = [
        commands.run(run, [*_COLLECT, "+output_jsonl_fpath=r.jsonl"], whole),
        commands.run(run, [*_TASKS, "+limit=3", "+output_jsonl_fpath=r.jsonl"], smaller),
        *(
            commands.run(run, [*_COLLECT, "+output_jsonl_fpath=s.jsonl", "+num_shards=3", f"+shard_index={n}"], shards)
            for n in range(3)
        ),
    ]
    assert [each.code for each in ended] == [0] * 5, [each.stderr for each in ended]
    return Base(files_of(whole), files_of(smaller), files_of(shards))


def _nothing(_: Base) -> Files:
    return {}


def _older_output(base: Base) -> Files:
    """An output of three tasks, of which the last is incomplete."""
    return {
        **base.smaller,
        "r.jsonl": base.older((0, 0), (0, 1), (1, 0), (1, 1)),
        "r_incomplete.jsonl": base.older((2, 0)),
        "r_failures.jsonl": _FAILURE,
    }


def _half_finished(base: Base) -> Files:
    """A journal whose last line is torn, beside rows of incomplete groups, a failure and temporary files."""
    return {
        "r.jsonl": base.older((3, 1), (0, 0), (1, 1), (0, 1)) + base.older((5, 0))[:99],
        "r_incomplete.jsonl": base.older((4, 0), (5, 1)),
        "r_failures.jsonl": _FAILURE,
        "r_manifest.json": base.whole["r_manifest.json"],
        f"r.jsonl{LEFTOVER}": b"{",
        f"r.jsonl.gz{LEFTOVER}{LEFTOVER}": b"",
        f"r_status.json{LEFTOVER}": b"",
    }


def _compressed(base: Base) -> Files:
    rows = base.older((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1))
    return {**base.smaller, "r.jsonl.gz": gzip.compress(rows), "r.jsonl": b""}


def _remote_copy(base: Base) -> Files:
    """A remote folder with a smaller output of this run, whose upload was cut off before the summary."""
    files = {
        name: content for name, content in _older_output(base).items() if name not in ("tasks.jsonl", "r_summary.json")
    }
    return {f"remote/{name}": content for name, content in files.items()}


def _older_copy(base: Base) -> Files:
    """A remote folder with the output of another run."""
    manifest = json.loads(base.smaller["r_manifest.json"]) | {"num_repeats": 5}
    return {**_remote_copy(base), "remote/r_manifest.json": json.dumps(manifest).encode()}


def _shards(base: Base) -> Files:
    """Three shards, beside an older merged output."""
    older_output = {name.replace("r", "all", 1): content for name, content in _older_output(base).items()}
    return {**base.shards, **older_output}


def _exported(base: Base) -> Files:
    return {**base.whole, "train.jsonl": older({}), "train_validation.jsonl": older({})}


def _compressed_export(base: Base) -> Files:
    exported = zstandard.compress(older({}))
    return {**base.whole, "train.jsonl.zst": exported, "train_validation.jsonl.zst": exported}


def _page(base: Base) -> Files:
    return {**_older_output(base), "r.html": b"<html>older</body>\n</html>\n"}


def _collect(
    name: str, files: Callable[[Base], Files] = _nothing, *more: str, output: str = "r.jsonl", **options: Any
) -> Scenario:
    arguments = [*_COLLECT, f"+output_jsonl_fpath={output}", *more]
    again = [*(argument for argument in arguments if argument not in (RESUME, "+overwrite=true")), RESUME]
    options = {"again": again, **options}
    return Scenario(name=name, arguments=arguments, files=files, outputs=["r.jsonl"], **options)


def _merge(name: str, output: str, *more: str, **options: Any) -> Scenario:
    arguments = ["+input_glob=s_shard_*.jsonl", f"+output_jsonl_fpath={output}", *more]
    return Scenario(
        name=name,
        script="ng_aggregate_rollouts",
        arguments=arguments,
        again=arguments,
        files=_shards,
        inputs=("s_",),
        outputs=["all.jsonl"],
        replaced=[output],
        **options,
    )


def _export(name: str, files: Callable[[Base], Files], ending: str, *more: str, **options: Any) -> Scenario:
    output = f"train.jsonl{ending}"
    arguments = ["+recipe=sft", "+input_jsonl_fpath=r.jsonl", f"+output_jsonl_fpath={output}", *more]
    arguments.append("+validation_fraction=0.3")
    return Scenario(
        name=name,
        script="ng_export_rollouts",
        arguments=arguments,
        again=arguments,
        files=files,
        inputs=("r",),
        outputs=["train.jsonl", "train_validation.jsonl"],
        replaced=[output, f"train_validation.jsonl{ending}"],
        **options,
    )


_UPLOAD = [*_COLLECT, "+output_jsonl_fpath=r.jsonl", "+upload_to=remote"]

SCENARIOS = [
    _collect("fresh", _nothing, "+materialized_inputs=true"),
    _collect("gzip", output="r.jsonl.gz"),
    _collect("zstd", output="r.jsonl.zst"),
    _collect("resume", _half_finished, RESUME),
    _collect("resume of a compressed output", _compressed, RESUME, output="r.jsonl.gz"),
    _collect(
        "a rollout that fails",
        lambda _: {"agent.py": _FLAKY_AGENT.encode()},
        *["+agents.example_math_agent._target_=agent.py:answer", "+max_attempts=1", "+max_failed_rollouts=1"],
    ),
    _collect("overwrite", _older_output, "+overwrite=true", keeps_older=False),
    _collect("backup", _older_output),
    _collect("upload", _nothing, "+upload_to=remote"),
    _collect("resume from a remote copy", _remote_copy, RESUME, "+upload_to=remote"),
    # A resume refuses a copy of another run.
    _collect("upload over another run", _older_copy, "+upload_to=remote", again=_UPLOAD),
    _collect("report", _page, "+report=true", replaced=["r.html"]),
    _merge("merge", "all.jsonl"),
    _merge("merge into gzip", "all.jsonl.gz", "+overwrite=true", keeps_older=False),
    _export("export", _exported, ""),
    _export("export into zstd", _compressed_export, ".zst", "+overwrite=true", keeps_older=False),
]
