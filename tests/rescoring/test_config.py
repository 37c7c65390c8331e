"""Parameters of the command: the help lists them, and each mistake is one line before anything is scored."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from ng_rollouts.rescoring.config import RescoreConfig
from tests.conftest import files_in
from tests.rescoring.conftest import Rescore, sum_rows
from tests.rollout_files import write_rows


def test_the_help_lists_every_parameter(rescore: Rescore) -> None:
    """Each has its name, and help that is not empty."""
    ran = rescore("--help")
    assert ran.code == 0
    lines = ran.stdout.splitlines()
    for each in fields(RescoreConfig):
        assert lines[lines.index(f"  +{each.name}") + 1].strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing scores the answers"),
        (["+verifier=exact_match", "+resources_base_url=http://127.0.0.1:9"], "both score the answers"),
        (["+verifier=exact_match", "+verifiers.a=math"], "both score the answers"),
        (["+verifier=exact_matc"], "verifier must be one of none, exact_match"),
        (["+verifier=[1,2]"], "verifier must be one of none, exact_match"),
        (["+verifier=none"], "verifier=none scores nothing"),
        (["+verifier=exact_match", "+verifier.colour=red"], "verifier=exact_match has no option 'colour'"),
        (["+verifier.colour=red"], "verifier has options but no kind"),
        (["+verifiers.a=exact_match", "+verifiers.b={x: 1}"], "verifiers.b has options but no kind"),
        (["+verifiers=math"], "verifiers has keys: write +verifiers.KEY=VALUE"),
        (["+verifiers.a-b=exact_match"], "a name has letters, digits and underscores"),
        (["+verifiers.previous=exact_match"], "is not `previous`"),
        (["+verifier=judge"], "verifier=judge needs the judge's model server: add +verifier.base_url=URL"),
        (["+verifiers.model=judge"], "add +verifiers.model.base_url=URL"),
        (["+verifier=judge", "+verifier.base_url=localhost"], "must be a URL"),
        (["+verifier=judge", "+verifier.api_key=${oc.env:NOT_SET_HERE}"], "NOT_SET_HERE is not set"),
        (["+verifier=python", "+verifier.function=missing.py:score"], "missing.py"),
        (["+verifier=exact_match", "+where=3"], "where has keys: write +where.KEY=VALUE"),
        (["+verifier=exact_match", "+only=failed", "+where.a=1"], "where has no effect with only=failed"),
        (["+verifier=exact_match", "+only=some"], "only must be one of all, unscored, failed"),
        (
            ["+verifier=exact_match", "+tasks_jsonl_fpath=missing.jsonl"],
            "tasks_jsonl_fpath missing.jsonl cannot be read",
        ),
        (["+verifier=exact_match", "+colour=red"], "colour"),
        (["verifier"], "is not a parameter"),
        (["+verifier=exact_match", "+max_failed_rollouts=some"], "max_failed_rollouts must be a number, got 'some'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, rescore: Rescore, sums_file: Path) -> None:
    """Code 2, one line that says what to change, and no file is written."""
    before = files_in(sums_file.parent)
    ran = rescore(*arguments)
    assert ran.code == 2, ran.stderr
    assert message in ran.stderr
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1
    assert files_in(sums_file.parent) == before


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("missing.jsonl", "new.jsonl", "rollouts_jsonl_fpath missing.jsonl cannot be read: No such file or directory"),
        (".", "new.jsonl", "rollouts_jsonl_fpath . cannot be read: Is a directory"),
        ("/dev/null", "new.jsonl", "is not a regular file"),
        ("empty.jsonl", "new.jsonl", "rollouts_jsonl_fpath empty.jsonl has no rollouts"),
        ("odd.jsonl", "new.jsonl", "odd.jsonl, line 1: not JSON"),
        ("rollouts.jsonl", "rollouts.jsonl", "would replace the input rollouts.jsonl"),
        ("rollouts.jsonl", "rollouts_failures.jsonl", "would replace the input"),
        ("rollouts.jsonl", "rollouts_incomplete.jsonl", "is the name of a side file of rollouts.jsonl"),
        ("rollouts.jsonl", "rollouts", "would replace the input"),
        ("rollouts.jsonl", ".", "is a folder"),
        ("s3://bucket/rollouts.jsonl", "new.jsonl", "this command reads local files only"),
    ],
)
def test_a_wrong_file_is_one_line(
    source: str, output: str, message: str, rescore: Rescore, sums_file: Path, tmp_path: Path
) -> None:
    """Also an output that would replace the source or one of its side files."""
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "odd.jsonl").write_text("odd\n")
    write_rows(tmp_path / "rollouts_failures.jsonl", [{"_ng_task_index": 9, "_ng_rollout_index": 0}])
    before = files_in(tmp_path)
    ran = rescore("+verifier=exact_match", "+overwrite=true", source=source, output=output)
    assert ran.code == 2, ran.stderr
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert files_in(tmp_path) == before


def test_rows_without_an_expected_answer_are_listed(rescore: Rescore, tmp_path: Path) -> None:
    """Before anything is scored; rollouts that are only copied need none."""
    rows = sum_rows(3)
    for row in rows[1:]:
        del row["expected_answer"]
    write_rows(tmp_path / "rollouts.jsonl", [*rows[:1], rows[1] | {"part": 2}, rows[2] | {"part": 2}])
    ran = rescore("+verifier=exact_match")
    assert ran.code == 2
    assert "2 rollouts, such as task 1, rollout 0: " in ran.stderr
    assert not (tmp_path / "new.jsonl").exists()
    ran = rescore("+verifier=exact_match", "+where.expected_answer='0'")
    assert ran.code == 0, ran.stderr
