"""Reading rollouts in the page: rendered and plain text, folded prompts, tools, marks, differences, and shared views."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.report.helpers import rollout_rows
from tests.report.test_page import built, show
from tests.rollout_files import rollout_row, write_rows

Visit = Callable[..., Page]

ANSWER = (
    "# Result\n\nIt is **bold**, `code` and $x^2$.\n\n```python\nprint(1)\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
)
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}


def page_of(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    return built(write_rows(tmp_path / "r.jsonl", rows))


def test_markdown_code_formulas_and_tables_are_rendered_and_plain_text_is_one_key_away(
    tmp_path: Path, visit: Visit
) -> None:
    """A rendered answer has elements for its markup; `m` shows the text as the model wrote it, and `m` again renders."""
    page = visit(page_of(tmp_path, [rollout_row(0, 0, 1.0, ANSWER)]), "#/task-0")
    answer = page.locator("article .message.assistant")
    for element in ("h4", "strong", "code", "math", "pre .hl-nb", "table td"):
        assert answer.locator(element).count() > 0, element
    assert "**" not in answer.inner_text()
    page.keyboard.press("m")
    expect(answer.locator("strong")).to_have_count(0)
    assert "It is **bold**" in answer.inner_text()
    page.keyboard.press("m")
    expect(answer.locator("strong")).to_have_text("bold")


def test_long_system_prompt_is_folded_and_the_offered_tools_are_shown(tmp_path: Path, visit: Visit) -> None:
    """A system prompt of many lines does not push the question off the screen; tools are listed by name."""
    row = rollout_row(0, 0, 1.0)
    system = {"role": "system", "content": "rule " * 400}
    row["responses_create_params"] |= {"input": [system, {"role": "user", "content": "why?"}], "tools": [TOOL]}
    page = visit(page_of(tmp_path, [row]), "#/task-0")
    folded = page.locator("#detail .message.system details").nth(1)
    assert folded.get_attribute("open") is None
    assert "why?" in page.locator("#detail .message.user").inner_text()
    assert "add" in page.locator("#detail summary").first.inner_text()
    page.keyboard.press("e")
    assert folded.get_attribute("open") is not None


def test_search_marks_its_hits_in_the_open_task(tmp_path: Path, visit: Visit) -> None:
    """What was searched for is marked, also within rendered text."""
    page = visit(page_of(tmp_path, [rollout_row(0, 0, 1.0, "The **needle** and a Needle.")]), "#/task-0?query=needle")
    expect(page.locator("article mark")).to_have_text(["needle", "Needle"])


def test_marks_and_list_follow_the_search_and_escape_removes_it(tmp_path: Path, visit: Visit) -> None:
    """Another search marks anew; Escape clears the filter with its text; Enter leads to the list."""
    rows = [rollout_row(task, 0, 1.0, f"needle {task} and thread") for task in range(3)]
    page = visit(page_of(tmp_path, rows), "#/task-1?query=needle")
    expect(page.locator("article mark")).to_have_text(["needle"])
    page.fill("#query", "thread")
    expect(page.locator("article mark")).to_have_text(["thread"])
    page.fill("#query", "needle 2")
    expect(page.locator("#count")).to_have_text("1 of 3 tasks")
    page.press("#query", "Escape")
    expect(page.locator("#count")).to_have_text("3 of 3 tasks")
    assert "query" not in page.evaluate("location.hash")
    page.press("#query", "Enter")
    expect(page.locator("#list")).to_be_focused()


def test_comparison_names_the_run_of_each_rollout_and_its_own_agents(tmp_path: Path, visit: Visit) -> None:
    """On a page over two files, answers have the name of their file, and a heading only the agents of its file."""
    first = write_rows(tmp_path / "a.jsonl", [rollout_row(0, 0, 1.0, "seven", agent_ref={"name": "one"})])
    second = write_rows(tmp_path / "b.jsonl", [rollout_row(0, 0, 0.0, "eight", agent_ref={"name": "two"})])
    page = visit(built(first, compare_jsonl_fpath=str(second)), "#/task-0")
    for box in page.locator("article input[type=checkbox]").all():
        box.check()
    expect(page.locator("#difference h3")).to_have_text("Final answers: rollout 0 of a.jsonl, rollout 0 of b.jsonl")
    one, two = page.locator("#run p").all_inner_texts()
    assert ("one" in one, "two" in one, "one" in two, "two" in two) == (True, False, False, True)


def test_two_answers_are_compared_word_by_word(tmp_path: Path, visit: Visit) -> None:
    """Choosing two rollouts of a group shows what only one of their answers has."""
    rows = [rollout_row(0, 0, 1.0, "the sum is 7 apples"), rollout_row(0, 1, 0.0, "the sum is 8 apples")]
    page = visit(page_of(tmp_path, rows), "#/task-0")
    for box in page.locator("article input[type=checkbox]").all():
        box.check()
    expect(page.locator("#difference del")).to_have_text("7")
    expect(page.locator("#difference ins")).to_have_text("8")
    page.locator("article input[type=checkbox]").first.uncheck()
    expect(page.locator("#difference")).to_be_hidden()


def test_bar_of_a_chart_filters_the_list(tmp_path: Path, visit: Visit) -> None:
    """A click on a bar lists the tasks with such a rollout; the filter is shown, and removed by a click."""
    rows = rollout_rows()
    page = visit(page_of(tmp_path, rows))
    page.locator("#chart-reward rect.pick").last.click()
    ones = {row["_ng_task_index"] for row in rows if row["reward"] == 1}
    expect(page.locator("#count")).to_have_text(f"{len(ones)} of 12 tasks")
    page.locator("#picked").click()
    expect(page.locator("#count")).to_have_text("12 of 12 tasks")


def test_view_can_be_shared_by_its_address(tmp_path: Path, visit: Visit) -> None:
    """Filters, order and the open task are in the address: another page with it shows the same."""
    path = page_of(tmp_path, rollout_rows())
    page = visit(path, "#/tasks")
    page.select_option("#order", "hardest")
    page.fill("#low", "0.4")
    page.select_option("#agent", label="two")
    page.locator(".task").first.click()
    page.wait_for_selector("article")
    shown, count = page.evaluate("document.body.dataset.shown"), page.locator("#count").inner_text()
    other = visit(path, page.evaluate("location.hash"))
    other.wait_for_selector(f"body[data-shown='{shown}']")
    assert other.locator("#count").inner_text() == count
    assert (other.input_value("#order"), other.input_value("#low")) == ("hardest", "0.4")


def test_values_have_colors_by_their_size_and_accuracy_has_a_sign(tmp_path: Path, visit: Visit) -> None:
    """0.5 has another color than 1 and 0, and a right answer is marked apart from its reward."""
    rows = [
        {**rollout_row(task, 0, value), "accuracy": float(value == 1)} for task, value in enumerate((0.0, 0.5, 1.0))
    ]
    page = visit(page_of(tmp_path, rows), "#/tasks")
    colors = [each.evaluate("(node) => getComputedStyle(node).color") for each in page.locator(".task .score").all()]
    assert len(set(colors)) == 3
    show(page, "task-2")
    expect(page.locator("article .correct")).to_have_text("✓")
    show(page, "task-0")
    expect(page.locator("article .correct")).to_have_text("✗")


@pytest.mark.parametrize("width", [390, 1280])
def test_four_rollouts_fit_a_desktop_and_tables_fit_a_phone(tmp_path: Path, visit: Visit, width: int) -> None:
    """At 1280 pixels, four rollouts of a group are in view; at 390, no table of the overview scrolls sideways."""
    rows = [rollout_row(0, index, index / 3, "word " * 50) for index in range(4)]
    page = visit(page_of(tmp_path, rows), "#/task-0", viewport={"width": width, "height": 844})
    if width == 1280:
        rights = [
            box["x"] + box["width"] for box in (each.bounding_box() for each in page.locator("article").all()) if box
        ]
        assert len(rights) == 4
        assert max(rights) <= 1280
    show(page, "overview")
    for name in ("scores", "facts"):
        assert page.evaluate(
            f"document.getElementById('{name}').scrollWidth <= document.getElementById('{name}').clientWidth"
        )
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_page_allows_no_style_and_no_script_but_its_own(tmp_path: Path) -> None:
    """The Content-Security-Policy names one script and one style by their hashes, and nothing inline."""
    text = page_of(tmp_path, [rollout_row(0, 0, 1.0)]).read_text()
    policy = text.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2
    assert "default-src 'none'" in policy
