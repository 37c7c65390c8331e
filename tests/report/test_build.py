"""Parameters of the report page are checked before a page is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran
from tests.report.helpers import rollout_rows
from tests.rollout_files import write_rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+input_jsonl_fpath=nope.jsonl"], "input_jsonl_fpath nope.jsonl cannot be read"),
        (["+score=acuracy"], "has the score 'acuracy': available scores: reward"),
        (["+output_html_fpath=r.jsonl"], "r.jsonl is not an .html file"),
        (["+serve=true", "+output_html_fpath=x.html"], "serve=true does not write a file"),
        (["+input_jsonl_fpath=empty.jsonl"], "empty.jsonl has no rollouts"),
    ],
)
def test_page_that_cannot_be_built_is_not_written(
    command: Callable[..., Ran], tmp_path: Path, arguments: list[str], message: str
) -> None:
    """A file or parameter that cannot be used ends with exit code 2 and a one-line message, and writes no page."""
    write_rows(tmp_path / "r.jsonl", rollout_rows(2))
    (tmp_path / "empty.jsonl").touch()
    ran = command("+input_jsonl_fpath=r.jsonl", *arguments, script="ng_view_rollouts")
    assert (ran.code, message in ran.stderr, ran.stderr.count("\n")) == (2, True, 1), ran.stderr
    assert not list(tmp_path.glob("*.html"))
