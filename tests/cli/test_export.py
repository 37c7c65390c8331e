"""`ng_export_rollouts`: groups, existing outputs and error messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts.export.recipes import RECIPES
from tests.conftest import SHARED_DATA, Ran, read_rows
from tests.rollout_files import rollout_row, write_rows


@pytest.fixture
def export(command: Callable[..., Ran]) -> Callable[..., Ran]:
    """Run `ng_export_rollouts` from r.jsonl to out.jsonl, unless the arguments name other files."""

    def run(*arguments: str) -> Ran:
        files = ("+input_jsonl_fpath=r.jsonl", "+output_jsonl_fpath=out.jsonl")
        return command(*files, *arguments, script="ng_export_rollouts")

    return run


@pytest.mark.parametrize("group_by", ["auto", "prompt_id", "position", "input"])
def test_rollouts_without_keys_are_grouped(export: Callable[..., Ran], tmp_path: Path, group_by: str) -> None:
    """Rows without task indices are grouped by prompt, in any order, or by position, in theirs."""
    rows = [rollout_row(task, index, index / 2, prompt_id=f"p{task}") for task in range(4) for index in range(3)]
    if group_by != "position":
        rows = [rows[number] for number in (7, 0, 3, 11, 5, 1, 2, 9, 8, 10, 4, 6)]
    without_keys = [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
    write_rows(tmp_path / "r.jsonl", without_keys)
    repeats = ["+num_repeats=3"] if group_by == "position" else []
    ran = export("+recipe=dpo", f"+group_by={group_by}", *repeats)
    assert ran.code == 0, ran.stderr
    assert (
        "Created 4 preference pairs from 4 groups\nPair creation rate: 100.0%\nChosen:   μ=1.000, σ=0.000" in ran.stdout
    )
    assert json.loads(ran.stdout[ran.stdout.index("\n{") :])["reward_gap"] == {"mean": 1.0, "sd": 0.0}
    assert len(read_rows(tmp_path / "out.jsonl")) == 4


def test_existing_exports_are_renamed(export: Callable[..., Ran], tmp_path: Path) -> None:
    """Existing training and validation files are renamed, unless `overwrite=true` replaces them."""
    write_rows(tmp_path / "r.jsonl", [rollout_row(task, 0, 1.0) for task in range(10)])
    arguments = ["+recipe=sft", "+validation_fraction=0.2", "+shuffle=true"]
    assert export(*arguments).code == 0
    first = read_rows(tmp_path / "out.jsonl"), read_rows(tmp_path / "out_validation.jsonl")
    assert (len(first[0]), len(first[1])) == (8, 2)
    assert "out.jsonl exists: renamed to out.jsonl.1" in export(*arguments, "+seed=1").stderr
    assert first == (read_rows(tmp_path / "out.jsonl.1"), read_rows(tmp_path / "out_validation.jsonl.1"))
    assert export(*arguments, "+overwrite=true").stderr == ""
    assert first == (read_rows(tmp_path / "out.jsonl"), read_rows(tmp_path / "out_validation.jsonl"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.jsonl", "out.jsonl.1", "out_validation.jsonl", "out_validation.jsonl.1", "r.jsonl",
    ]  # fmt: skip


def test_temporary_files_of_a_killed_export_are_removed(export: Callable[..., Ran], tmp_path: Path) -> None:
    """The next export into the same files removes what a killed one has left."""
    write_rows(tmp_path / "r.jsonl", [rollout_row(task, 0, 1.0) for task in range(2)])
    for name in ("out.jsonl", "out_validation.jsonl", "other.jsonl"):
        (tmp_path / f"{name}.0123abcd.writing").touch()
    assert export("+recipe=sft", "+validation_fraction=0.5").code == 0
    assert [path.name for path in tmp_path.glob("*.writing")] == ["other.jsonl.0123abcd.writing"]


def test_validation_file_must_not_be_the_input(export: Callable[..., Ran], tmp_path: Path) -> None:
    """The input is never replaced, not even if its name is the derived name of the validation file."""
    source = write_rows(tmp_path / "out_validation.jsonl", [rollout_row(task, 0, 1.0) for task in range(10)])
    before = source.read_text()
    arguments = ["+input_jsonl_fpath=out_validation.jsonl", "+validation_fraction=0.1", "+overwrite=true"]
    ran = export("+recipe=sft", *arguments)
    assert (ran.code, "which is the input" in ran.stderr) == (2, True)
    assert source.read_text() == before


def test_validation_file_of_an_earlier_export_is_removed(export: Callable[..., Ran], tmp_path: Path) -> None:
    """An export without a validation part removes the earlier validation file, whose rows are now in the output."""
    write_rows(tmp_path / "r.jsonl", [rollout_row(task, 0, 1.0) for task in range(10)])
    assert export("+recipe=sft", "+validation_fraction=0.01").code == 0
    assert len(read_rows(tmp_path / "out_validation.jsonl")) == 1
    assert export("+recipe=sft", "+overwrite=true").code == 0
    assert not (tmp_path / "out_validation.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+group_by=prompt_id"], "r.jsonl, line 1: no prompt_id to group by"),
        (["+output_jsonl_fpath=r.jsonl"], "output_jsonl_fpath r.jsonl would replace r.jsonl, which is the input"),
        (["+input_jsonl_fpath=nope.jsonl"], "input_jsonl_fpath nope.jsonl cannot be read: No such file"),
        (["--shuffle"], "error: '--shuffle' is not a parameter: write +shuffle=true (see --help)"),
        (["--shufle"], "error: '--shufle' is not a parameter: write +key=value, did you mean +shuffle=? (see --help)"),
        (["--input", "r.jsonl"], "write +key=value, did you mean +input_jsonl_fpath=? (see --help)"),
        (["--seed=3"], "error: '--seed=3' is not a parameter: write +seed=3 (see --help)"),
        (["--min-reward"], "error: '--min-reward' is not a parameter: write +min_reward=VALUE (see --help)"),
        (["+output_jsonl_fpath=."], "output_jsonl_fpath . is a folder"),
        (["+output_jsonl_fpath=/dev/null"], "is not a regular file"),
        (["+score=rewrad"], "no rollout of r.jsonl has the score 'rewrad': available scores: reward"),
    ],
)
def test_export_that_fails_writes_no_file(
    export: Callable[..., Ran], tmp_path: Path, arguments: list[str], message: str
) -> None:
    """An input or output that cannot be used ends with exit code 2 and a one-line message, and no file is written."""
    write_rows(tmp_path / "r.jsonl", [rollout_row(0, 0, 1.0)])
    ran = export("+recipe=sft", *arguments)
    assert (ran.code, message in ran.stderr, ran.stderr.count("\n")) == (2, True, 1), ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared rollouts are not available")
def test_rollouts_of_nemo_gym_are_exported(export: Callable[..., Ran], tmp_path: Path) -> None:
    """Rollouts that NeMo Gym wrote are exported by every recipe, with text as the content of every message."""
    written = 0
    for source in SHARED_DATA.glob("*/example_rollouts.jsonl"):
        (tmp_path / "r.jsonl").write_bytes(source.read_bytes())
        for recipe in set(RECIPES) - {"atif", "rl_tokens"}:
            ran = export(f"+recipe={recipe}", "+overwrite=true")
            assert ran.code == 0, ran.stderr
            for row in read_rows(tmp_path / "out.jsonl"):
                messages = row.get("messages") or row["prompt"]
                assert all(isinstance(message["content"], str) for message in messages)
                written += 1
    assert written > 50
