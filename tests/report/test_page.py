"""The report page in a real browser: its views, its keyboard, and that texts of rollouts are never markup."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from ng_rollouts.report.build import ViewConfig, build_page
from tests.conftest import SCRIPTS, SHARED_DATA, Ran, read_rows
from tests.health.rows import message, row_of
from tests.report.helpers import rollout_rows
from tests.rollout_files import rollout_row, write_rows
from tests.servers import Served

ATTACKS = [
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    '"><svg onload="window.pwned=1">',
    "<!--<script>",
    "javascript:window.pwned=1",
    "[click](javascript:window.pwned=1) <a href='javascript:window.pwned=1'>here</a>",
    "${window.pwned = 1} {{constructor.constructor('window.pwned=1')()}}",
    "</style></title></textarea></noscript><iframe srcdoc='<script>parent.pwned=1</script>'>",
    "```<script>window.pwned=1</script>``` `<b onmouseover=window.pwned=1>` \\(<img src=x onerror=window.pwned=1>\\)",
    "__proto__",
    "![x](http://127.0.0.1:1/x.png) [y](javascript:window.pwned=1) <http://127.0.0.1:1/z>",
    "# <img src=x onerror=window.pwned=1>\n\n| a |\n|---|\n| <svg onload=window.pwned=1> |\n\n> <script>window.pwned=1</script>",
    "$\\href{javascript:window.pwned=1}{x}$ $$\\text{<img src=x onerror=window.pwned=1>}$$ \\(\\class{x}{y}\\)",
    "```html\n<script>window.pwned=1</script><img src=x onerror=window.pwned=1>\n```",
    "\u2028\u2029\ud800",
]


def built(path: Path, **parameters: Any) -> Path:
    """The page of a file of rollouts."""
    return build_page(ViewConfig(input_jsonl_fpath=str(path), **parameters))


def show(page: Page, fragment: str) -> None:
    """Navigate within the page, and wait for the view or the task."""
    page.evaluate(f"location.hash = '/{fragment}'")
    if fragment.startswith("task-"):
        page.wait_for_selector(f"#detail :text('Task {fragment.removeprefix('task-')}')", timeout=60_000)
    else:
        page.wait_for_selector(f"#{fragment}:not([hidden])", timeout=60_000)


def cards_of(page: Page, view: str) -> dict[str, str]:
    """The values of a view's cards by their titles."""
    names, values = (page.locator(f"#{view} .card {part}").all_inner_texts() for part in ("span", "b"))
    return dict(zip(names, values, strict=True))


def test_page_of_a_run_shows_its_counts_and_failures(
    process: Callable[..., Ran],
    serve: Callable[..., Served],
    tasks: Callable[..., Path],
    tmp_path: Path,
    visit: Callable[..., Page],
) -> None:
    """`report=true` writes a page with the run's state, counts, failure classes and parameters.

    Failures and rollouts of incomplete groups can be read in it.
    """
    server = serve(faults={"400": 0.2}, sticky=True)
    tasks(20)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]
    ran = process(f"+agent_url={server.url}", *files, "+num_repeats=3", "+report=true")
    assert "Page: r.html" in ran.stderr
    failed = len(read_rows(tmp_path / "r_failures.jsonl"))
    page = visit(tmp_path / "r.html")
    cards = cards_of(page, "overview")
    summary = json.loads((tmp_path / "r_summary.json").read_text())
    assert (cards["tasks"], cards["failed"], cards["rollouts"]) == (
        "20",
        str(failed),
        str(len(read_rows(tmp_path / "r.jsonl"))),
    )
    mean = cards[f"mean reward, over {cards['rollouts']} of 60 rollouts"]
    assert mean.startswith(f"{summary['means']['reward']:.3f} ± ")
    assert page.locator("#run .state").inner_text() == f"finished, {60 - failed} of 60 rollouts, {failed} failed"
    failures = page.locator("#failures").inner_text().split()
    assert failures == ["Failures", "by", "class", "class", "rollouts", "http_400", str(failed)]
    assert "wall time" in page.locator("#facts").inner_text()
    page.goto(page.url + "#/tasks")
    page.select_option("#only", "failed")
    failed_tasks = {row["_ng_task_index"] for row in read_rows(tmp_path / "r_failures.jsonl")}
    assert page.locator("#count").inner_text() == f"{len(failed_tasks)} of 20 tasks"
    page.locator(".task").first.click()
    page.wait_for_selector("article")
    assert page.locator("article").count() == 3
    assert "made up by the test server" in page.locator("#detail").inner_text()
    assert "set aside: its group is incomplete" in page.locator("#detail").inner_text()


def test_tasks_are_filtered_and_sorted(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Tasks are filtered by text, agent and mean, and sorted by mean.

    A search covers prompts and the beginning of answers, or whole texts if that is selected.
    """
    rows = rollout_rows()
    rows[4]["response"]["output"][0]["content"][0]["text"] = "x " * 300 + 'NEEDLE "quoted" ü'
    page = visit(built(write_rows(tmp_path / "r.jsonl", rows)), "#/tasks")

    def count() -> int:
        return int(page.locator("#count").inner_text().split()[0])

    def fill(selector: str, value: str, tasks: int) -> None:
        page.fill(selector, value)
        expect(page.locator("#count")).to_have_text(f"{tasks} of 12 tasks")

    assert count() == 12
    fill("#query", "question 7", 1)
    fill("#query", "answer 1/", 1)
    fill("#query", 'needle "quoted" ü', 0)
    page.check("#whole")
    expect(page.locator("#count")).to_have_text("1 of 12 tasks")
    page.uncheck("#whole")
    fill("#query", "", 12)
    page.select_option("#agent", label="two")
    assert count() == 6
    page.select_option("#agent", "")
    means = [sum(row["reward"] for row in rows[3 * task : 3 * task + 3]) / 3 for task in range(12)]
    fill("#low", "0.5", sum(mean >= 0.5 for mean in means))
    page.select_option("#order", "easiest")
    assert float(page.locator(".task .head b").first.inner_text()) == pytest.approx(max(means), abs=1e-3)
    fill("#high", "0.4", 0)


def test_every_view_can_be_reached_with_the_keyboard(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Keys lead through the tasks, to the list, to the search and back, and screen readers learn the selection."""
    page = visit(built(write_rows(tmp_path / "r.jsonl", rollout_rows(40))))
    page.keyboard.press("r")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.wait_for_selector("text=Task 1")
    assert page.url.endswith("#/task-1")
    assert page.locator("[aria-selected=true]").get_attribute("id") == page.locator("#list").get_attribute(
        "aria-activedescendant"
    )
    page.keyboard.press("k")
    page.wait_for_selector("text=Task 0")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"
    page.keyboard.press("End")
    page.wait_for_selector("text=Task 39")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "detail"
    page.keyboard.press("/")
    expect(page.locator("#query")).to_be_focused()
    page.keyboard.type("j")
    assert page.input_value("#query") == "j"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    page.wait_for_selector("#overview:not([hidden])")


def test_messages_of_a_rollout_are_shown_as_a_chat(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """A chat has its roles, code blocks and formulas; reasoning is folded until it is expanded.

    The raw row is available as JSON.
    """
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "secretly thinking"}]},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": '{"sum": 2}'},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "See\n```python\nprint(1)\n```\nso \\boxed{2}"}],
        },
    ]
    row = {**rollout_row(0, 0, 1.0), "response": {"output": items}, "note": "kept"}
    page = visit(built(write_rows(tmp_path / "r.jsonl", [row])), "#/task-0")
    page.wait_for_selector("article")
    assert page.locator("#detail .role").all_inner_texts() == ["USER", "ASSISTANT", "TOOL", "ASSISTANT"]
    assert not page.get_by_text("secretly thinking").is_visible()
    page.keyboard.press("e")
    assert page.get_by_text("secretly thinking").is_visible()
    assert page.locator("article pre").all_inner_texts()[:2] == ['{\n  "a": 1\n}', "print(1)\n"]
    assert page.locator("article math").text_content() == "2"
    page.keyboard.press("m")
    expect(page.locator(".math")).to_have_text("\\boxed{2}")
    page.get_by_text("raw JSON").click()
    assert json.loads(page.locator("article > details:last-child pre").inner_text()) == row


def test_images_with_data_are_shown(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """An image whose data the row has is shown; the text beside it can be searched."""
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
    parts = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{pixel}"},
    ]
    row = rollout_row(0, 0, 1.0)
    row["responses_create_params"] = {"input": [{"role": "user", "content": parts}]}
    page = visit(built(write_rows(tmp_path / "r.jsonl", [row])), "#/task-0")
    page.wait_for_selector("article")
    assert page.locator("#detail .message.user").inner_text().split() == ["USER", "What", "is", "it?"]
    image = page.locator("#detail .message.user img")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1


def test_markup_in_rollouts_is_shown_as_text(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Markup, scripts and links in any field, side file or file name are text on every view, and nothing runs."""
    rows = []
    for task, attack in enumerate(ATTACKS):
        row = rollout_row(task, 0, 1.0, attack, agent_ref={"name": attack}, prompt_id=attack)
        row["responses_create_params"]["input"] = [
            {"role": attack, "content": attack},
            {"role": "user", "content": attack},
        ]
        call = {"type": "function_call", "call_id": attack, "name": attack, "arguments": attack}
        row["response"]["output"] += [call, {"type": "function_call_output", "call_id": attack, "output": attack * 9}]
        row["response"]["output"].append({"type": "reasoning", "summary": [{"type": "summary_text", "text": attack}]})
        before = attack if task % 2 else 0.0
        rows.append({**row, attack: attack, f"{attack} score": 1.0, "previous_reward": before})
    path = write_rows(tmp_path / "r.jsonl", rows)
    failure = {
        "failure_class": ATTACKS[0],
        "message": ATTACKS[2],
        "attempts": [],
        "row": rows[0],
        "agent_ref": {"name": ATTACKS[1]},
    }
    write_rows(tmp_path / "r_failures.jsonl", [{**failure, "_ng_task_index": 0, "_ng_rollout_index": 1}])
    (tmp_path / "r_manifest.json").write_text(json.dumps({"agent_name": ATTACKS[1], "model": {ATTACKS[2]: ATTACKS[3]}}))
    (tmp_path / "r_summary.json").write_text(json.dumps({"command": ATTACKS[1], "failed_by_class": {ATTACKS[0]: 1}}))
    second = write_rows(tmp_path / "'><script>window.pwned=1<.jsonl", rows)
    page = visit(built(path, compare_jsonl_fpath=str(second)))
    for fragment in ("overview", "compare", *(f"task-{task}" for task in range(len(ATTACKS)))):
        show(page, fragment)
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.wait_for_timeout(50)  # the time in which a script or an event handler would run
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("Object.prototype.pwned") is None
    assert page.locator("article script, article img, article svg, article iframe, article a").count() == 0
    show(page, "task-0")
    assert ATTACKS[0] in page.locator("#detail").inner_text()


def test_two_runs_are_compared_task_by_task(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """A comparison covers the tasks with equal questions, and shows the rollouts of both runs of a task."""
    first, second = rollout_rows(6), rollout_rows(6)
    for row in second[:3]:
        row["reward"] = 1.0
    for row in second[-3:]:
        row["responses_create_params"] = {"input": "something else"}
    one, two = write_rows(tmp_path / "one.jsonl", first), write_rows(tmp_path / "two.jsonl", second)
    page = visit(built(one, compare_jsonl_fpath=str(two)), "#/compare")
    cards = cards_of(page, "compare")
    assert (cards["tasks in common"], cards["wins, losses, ties"]) == ("5", "1, 0, 4")
    page.locator("#compare a").first.click()
    page.wait_for_selector("article")
    assert page.locator("article").count() == 6
    page.select_option("#only", "flipped")
    was_wrong = sum(row["reward"] for row in first[:3]) / 3 < 0.5
    assert page.locator("#count").inner_text().startswith("1 of" if was_wrong else "0 of")


def test_comparison_in_the_page_equals_that_of_the_command(
    command: Callable[..., Ran], tmp_path: Path, visit: Callable[..., Page]
) -> None:
    """Page and `ng_compare_rollouts` agree on common tasks, means and flips.

    Only finished rollouts count, prompts are compared as a whole, and rounding of sums does not decide a tie.
    """
    opening = "the same words again and again " * 20

    def row_with_long_prompt(reward: float, ending: str) -> dict[str, Any]:
        params = {"input": [{"role": "user", "content": opening + ending}]}
        return {**rollout_row(2, 0, reward), "responses_create_params": params}

    first = [rollout_row(0, index, reward) for index, reward in enumerate([1.0, 0.4, 0.4, 0.2])]
    second = [rollout_row(0, index, 0.3) for index in range(4)]
    first += [rollout_row(1, 0, 1.0), row_with_long_prompt(0.0, "one"), rollout_row(3, 0, None), rollout_row(4, 0, 0.0)]
    second += [rollout_row(1, 0, 0.0), row_with_long_prompt(1.0, "two"), rollout_row(3, 0, 1.0)]
    second += [rollout_row(4, 0, 0.25)]
    one, two = write_rows(tmp_path / "one.jsonl", first), write_rows(tmp_path / "two.jsonl", second)
    write_rows(tmp_path / "one_incomplete.jsonl", [rollout_row(4, 1, 1.0), rollout_row(5, 0, 1.0)])
    ran = command("+rollouts_jsonl_fpaths=one.jsonl,two.jsonl", "+intersection=true", script="ng_compare_rollouts")
    (comparison,) = json.loads(ran.stdout[ran.stdout.index("[\n") :])
    page = visit(built(one, compare_jsonl_fpath=str(two)), "#/compare")
    cards = cards_of(page, "compare")
    text = page.locator("#compare p").inner_text()
    assert int(cards["tasks in common"]) == comparison["tasks"] == 3
    assert float(cards["difference"]) == pytest.approx(comparison["difference"], abs=1e-3)
    assert f"0 tasks flipped to right, {len(comparison['flipped_to_wrong'])} to wrong" in text
    assert len(comparison["flipped_to_wrong"]) == 2
    assert page.locator("#compare td", has_text="flipped").count() == 2
    assert page.locator("#compare tbody").first.locator("tr").count() == 3
    assert "1 tasks are only in the first, 2 only in the second" in text


def test_unusual_rows_are_shown(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Unclosed formulas, fields with the names of the page's own, and rows of other programs are shown in time.

    Numbers are shown as they are in the file.
    """
    rows = [
        rollout_row(0, 0, 1.0, "\\(" * 100_000 + "$$ \\[ `" * 20_000),
        rollout_row(
            1,
            0,
            12345.678,
            "x",
            _view={"input": [None], "output": [None]},
            input=[],
            output=[],
            big=12345678901234567890,
            one=1.0,
        ),
        {
            "reward": 1.0,
            "_ng_task_index": 2,
            "_ng_rollout_index": 0,
            "output": [{"role": "assistant"}],
            "input": "text",
        },
    ]
    page = visit(built(write_rows(tmp_path / "r.jsonl", rows)), "#/task-0")
    page.wait_for_selector("article", timeout=60_000)
    for task, text in ((1, "12345678901234567890"), (2, "rollout 0")):
        show(page, f"task-{task}")
        assert text in page.locator("#detail").inner_text()
    show(page, "task-1")
    assert "12,345.678" in page.locator("article h3").inner_text()
    page.get_by_text("raw JSON").click()
    assert '"one": 1.0' in page.locator("article > details:last-child pre").inner_text()


def test_bars_of_the_strip_are_selected_with_the_keyboard(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Arrow keys select a bar, whose description screen readers read, and Enter opens its task.

    The skip link moves the focus without leaving the view.
    """
    page = visit(built(write_rows(tmp_path / "r.jsonl", rollout_rows())))
    page.focus("#strip-canvas")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert (page.get_attribute("#strip-canvas", "aria-valuetext") or "").startswith("task 2, mean 0.")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail :text('Task 2')")
    page.focus(".skip")
    page.keyboard.press("Enter")
    assert page.url.endswith("#/task-2")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared rollouts are not available")
def test_rollouts_of_nemo_gym_are_shown(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Every task of every file that NeMo Gym wrote has messages, on wide and narrow screens, light and dark."""
    sources = sorted(SHARED_DATA.glob("*/example_rollouts.jsonl"))
    options: list[dict[str, Any]] = [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 780}}]
    for first, each in enumerate(options):
        page: Page | None = None
        # files with the same options share a browser page, because a new one takes longer than a file
        for number, source in list(enumerate(sources))[first :: len(options)]:
            path = tmp_path / f"{number}.jsonl"
            path.write_bytes(source.read_bytes())
            page = visit(built(path), page=page, **each)
            tasks = page.evaluate(
                "JSON.parse(document.getElementById('overview-data').textContent).files[0].cards[0][1]"
            )
            for task in range(tasks):
                show(page, f"task-{task}")
                assert page.locator("article .message").count() > 0


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_layout_is_stable_and_fits_the_width(tmp_path: Path, visit: Callable[..., Page], width: int) -> None:
    """The layout does not shift while the page loads, and no view is wider than the window."""
    page = visit(built(write_rows(tmp_path / "r.jsonl", rollout_rows())), viewport={"width": width, "height": 800})
    shift = """() => new Promise(resolve => { let sum = 0;
        new PerformanceObserver(list => { for (const each of list.getEntries()) sum += each.value; })
            .observe({type: 'layout-shift', buffered: true}); setTimeout(() => resolve(sum), 100); })"""
    assert page.evaluate(shift) < 0.05
    for fragment in ("overview", "tasks", "task-3"):
        show(page, fragment)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_controls_and_charts_have_accessible_names(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Every input, selection, button, chart and region has a name for screen readers."""
    page = visit(built(write_rows(tmp_path / "r.jsonl", rollout_rows())), "#/task-0")
    page.wait_for_selector("article")
    unnamed = """() => [...document.querySelectorAll('input, select, button, canvas, svg[role=img], [role=listbox], section, article')]
        .filter(each => !(each.getAttribute('aria-label') || each.closest('label') || each.textContent.trim())).map(each => each.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert page.evaluate("document.documentElement.lang") == "en"


def test_rollouts_beyond_max_page_mb_are_listed_without_messages(
    command: Callable[..., Ran], tmp_path: Path, visit: Callable[..., Page]
) -> None:
    """The command and the page say that the page does not contain all messages, and how to see them."""
    noise = random.Random(1)
    rows = [rollout_row(task, 0, 1.0, f"{task} {noise.randbytes(4500).hex()} word{task}") for task in range(300)]
    path = write_rows(tmp_path / "r.jsonl", rows)
    ran = command("+input_jsonl_fpath=r.jsonl", "+max_page_mb=0.1", script="ng_view_rollouts")
    assert re.search(r"warning: \d+ rollouts are listed without messages", ran.stderr)
    page = visit(path.with_suffix(".html"), "#/task-299")
    page.wait_for_selector("article")
    assert "+serve=true shows it" in page.locator("article").inner_text()
    page.check("#whole")
    page.fill("#query", "question 299")
    expect(page.locator("#count")).to_have_text(
        re.compile(r"1 of 300 tasks; the texts of \d+ rollouts are not in this page")
    )


def test_served_page_requests_rows_and_searches_them(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """A served page requests the rows of a task when it is opened, and searches whole texts on the server.

    No file is written.
    """
    write_rows(tmp_path / "r.jsonl", rollout_rows())
    command = [str(SCRIPTS / "ng_view_rollouts"), "+input_jsonl_fpath=r.jsonl", "+serve=true"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            page = visit(process.stdout.readline().split()[0], "#/task-3")
            page.wait_for_selector("article")
            assert "answer 3/0" in page.locator("article").first.inner_text()
            page.fill("#query", "ANSWER 5/2")
            page.check("#whole")
            expect(page.locator("#count")).to_have_text("1 of 12 tasks")
            page.context.close()
        finally:
            process.terminate()
    assert not (tmp_path / "r.html").exists()


def test_problems_are_linked_and_filter_the_tasks(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """The overview names the three largest problems with a task each; the list can be filtered by each problem."""
    rows = []
    for task in range(6):
        for index in (0, 1):
            items = [] if task in (2, 4) and index else [message(f"answer {task} {index}")]
            row = row_of(*items, reward=float(index), cut="max_output_tokens" if task == 5 else None)
            rows.append({**row, "_ng_task_index": task, "_ng_rollout_index": index})
    write_rows(tmp_path / "r.jsonl", rows)
    page = visit(built(tmp_path / "r.jsonl"))
    expect(page.locator("#problems")).to_have_text(
        "Problems: empty 2 (16.7 % of rollouts, task 2, rollout 1), token_limit 2 (16.7 % of rollouts, task 5, "
        "rollout 0), task_consistently_unhealthy 1 (16.7 % of tasks, task 5)"
    )
    page.click("#problems >> text=task 2, rollout 1")
    page.wait_for_selector("#detail :text('Task 2')")
    page.go_back()
    page.click("#problems >> text=empty")
    expect(page.locator("#count")).to_contain_text("2 of 6 tasks")
    page.select_option("#only", "problem-token_limit")
    expect(page.locator("#count")).to_contain_text("1 of 6 tasks")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.locator("#count")).to_contain_text("1 of 6 tasks")


def test_changes_of_scores_are_shown_and_filter_the_tasks(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """A page of rollouts that were scored again shows both scores of a rollout, and counts and filters the changes."""
    scores: list[list[tuple[Any, Any]]] = [
        [(0.0, 1.0), (1.0, 1.0)],
        [(1.0, 0.0), (0.5, 0.25)],
        [(1.0, 1.0), (0.0, 0.0)],
        [(None, 1.0), (1.0, None)],
    ]
    rows = [
        rollout_row(task, index, now, **({} if before is None else {"previous_reward": before}))
        for task, of_task in enumerate(scores)
        for index, (before, now) in enumerate(of_task)
    ]
    page = visit(built(write_rows(tmp_path / "r.jsonl", rows)))
    cards = cards_of(page, "changes")
    assert (cards["changed scores"], cards["from 0 to 1"], cards["from 1 to 0"]) == ("3 of 6", "1", "1")
    assert (cards["scored now only, before only"], cards["agreement of old and new"]) == ("1, 1", "50.0 %")
    # 1 - observed / expected squared distance, from all pairs of a score before with a score now
    befores, nows = zip(*(pair for of_task in scores for pair in of_task if None not in pair), strict=True)
    by_chance = sum((before - now) ** 2 for before in befores for now in nows) / 36
    assert float(cards["quadratic weighted kappa"]) == pytest.approx(1 - (2 + 0.0625) / 6 / by_chance, abs=1e-3)
    page.click("#changes >> text=from 0 to 1")
    expect(page.locator("#count")).to_have_text("1 of 4 tasks")
    expect(page.locator(".task .head").first).to_have_text("#0 · 2×1 changed 0.5 → 1")
    page.select_option("#only", "change-any")
    expect(page.locator("#count")).to_have_text("2 of 4 tasks")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.locator("#count")).to_have_text("2 of 4 tasks")
    titles = {1: ["1 → 0", "0.5 → 0.25"], 2: ["1", "0"], 3: ["– → 1", "1 → –"]}
    for task, expected in titles.items():
        show(page, f"task-{task}")
        shown = [text.split(maxsplit=2)[2] for text in page.locator("article h3").all_inner_texts()]
        assert shown == expected
        assert page.get_by_text("the same score as before").count() == (2 if task == 2 else 0)


@pytest.mark.parametrize("parameters", [{}, {"score": "accuracy"}])
def test_page_without_earlier_scores_shows_no_changes(
    tmp_path: Path, visit: Callable[..., Page], parameters: dict[str, Any]
) -> None:
    """Without earlier rewards, or of another score than the reward, a page has no changes and no filter of them."""
    earlier: dict[str, Any] = {"previous_reward": 0.0, "accuracy": 1.0} if parameters else {}
    write_rows(tmp_path / "r.jsonl", [rollout_row(0, 0, 1.0, **earlier)])
    page = visit(built(tmp_path / "r.jsonl", **parameters), "#/task-0")
    page.wait_for_selector("article")
    expect(page.locator("#changes")).to_be_hidden()
    assert page.locator("#only option[value^=change-]").count() == 0
    assert "→" not in page.locator("article h3").inner_text()


def test_page_without_problems_shows_none(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Without a problem, the overview has no line about them, and the list no filter."""
    write_rows(tmp_path / "r.jsonl", [rollout_row(0, 0, 1.0)])
    page = visit(built(tmp_path / "r.jsonl"))
    expect(page.locator("#problems")).to_be_hidden()
    assert page.locator("#only option[value^=problem-]").count() == 0
