"""The page, in a real browser: what it shows, how one gets about in it, and that what rollouts say stays text."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ng_rollouts.report.build import ViewConfig, build_page

from .conftest import SCRIPTS, SHARED_DATA, Ran, Served, read_rows
from .test_export import rollout

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt install chromium")

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
    "\u2028\u2029\ud800",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages; whatever one complains of, or asks of the network, fails the test."""
    problems: list[str] = []
    contexts = []

    def opened(target: Path | str, place: str = "", **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        url = target.as_uri() if isinstance(target, Path) else target
        page.on(
            "request",
            lambda request: None if request.url.startswith((url, "data:", "blob:")) else problems.append(request.url),
        )
        page.goto(url + place)
        page.wait_for_selector("body[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def write(folder: Path, rows: list[Any], name: str = "r.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(path: Path, **more: Any) -> Path:
    return build_page(ViewConfig(input_jsonl_fpath=str(path), **more))


def rollouts(tasks: int = 12, repeats: int = 3) -> list[dict[str, Any]]:
    return [
        rollout(
            task,
            index,
            ((task + index) % 4) / 3,
            f"answer {task}/{index}",
            agent_ref={"name": ("one", "two")[task % 2]},
        )
        for task in range(tasks)
        for index in range(repeats)
    ]


def cards_of(page: Page, view: str) -> dict[str, str]:
    """The figures of a view, by their names."""
    names, figures = (page.locator(f"#{view} .card {part}").all_inner_texts() for part in ("span", "b"))
    return dict(zip(names, figures, strict=True))


def test_a_run_with_failures(
    process: Callable[..., Ran],
    serve: Callable[..., Served],
    tasks: Callable[..., Path],
    tmp_path: Path,
    visit: Callable[..., Page],
) -> None:
    """Made by the collecting process: counts, classes, facts; what failed and what was set aside is there to read."""
    server = serve(faults={"400": 0.2}, sticky=True)
    tasks(20)
    ran = process(
        f"+agent_url={server.url}",
        "+input_jsonl_fpath=tasks.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        "+num_repeats=3",
        "+report=true",
    )
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
    assert cards["mean reward"].startswith(f"{summary['means']['reward']:.3f} ± ")
    assert page.locator("#failures").inner_text().split() == [
        "Failures",
        "by",
        "class",
        "class",
        "rollouts",
        "http_400",
        str(failed),
    ]
    assert "wall_s" in page.locator("#facts").inner_text()
    page.goto(page.url + "#/tasks")
    page.select_option("#only", "failed")
    shown = {row["_ng_task_index"] for row in read_rows(tmp_path / "r_failures.jsonl")}
    assert page.locator("#count").inner_text() == f"{len(shown)} of 20 tasks"
    page.locator(".task").first.click()
    page.wait_for_selector("article")
    assert page.locator("article").count() == 3
    assert "made up by the test server" in page.locator("#detail").inner_text()
    assert "set aside: its group is incomplete" in page.locator("#detail").inner_text()


def test_filters_and_orders(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """By words, by mean, by agent; whole texts are searched where heads are not enough."""
    rows = rollouts()
    rows[4]["response"]["output"][0]["content"][0]["text"] = "x " * 300 + 'NEEDLE "quoted" ü'
    page = visit(made(write(tmp_path, rows)), "#/tasks")

    def count() -> int:
        return int(page.locator("#count").inner_text().split()[0])

    def typed(name: str, value: str, tasks: int) -> None:
        page.fill(name, value)
        expect(page.locator("#count")).to_have_text(f"{tasks} of 12 tasks")

    assert count() == 12
    typed("#query", "question 7", 1)
    typed("#query", "answer 1/", 1)
    typed("#query", 'needle "quoted" ü', 0)
    page.check("#whole")
    expect(page.locator("#count")).to_have_text("1 of 12 tasks")
    page.uncheck("#whole")
    typed("#query", "", 12)
    page.select_option("#agent", label="two")
    assert count() == 6
    page.select_option("#agent", "")
    means = [sum(row["reward"] for row in rows[3 * task : 3 * task + 3]) / 3 for task in range(12)]
    typed("#low", "0.5", sum(mean >= 0.5 for mean in means))
    page.select_option("#order", "easiest")
    assert float(page.locator(".task .head b").first.inner_text()) == pytest.approx(max(means), abs=1e-3)
    typed("#high", "0.4", 0)


def test_keys_lead_everywhere(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Through tasks, into the list, to the search and back; what is chosen is told to those who do not see it."""
    page = visit(made(write(tmp_path, rollouts(40))))
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


def test_a_chat_is_a_chat(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Roles, calls and reasoning folded, code and formulas set apart, the row as it is on demand."""
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
    row = {**rollout(0, 0, 1.0), "response": {"output": items}, "note": "kept"}
    page = visit(made(write(tmp_path, [row])), "#/task-0")
    page.wait_for_selector("article")
    assert page.locator("#detail .role").all_inner_texts() == ["USER", "ASSISTANT", "TOOL", "ASSISTANT"]
    assert not page.get_by_text("secretly thinking").is_visible()
    page.keyboard.press("e")
    assert page.get_by_text("secretly thinking").is_visible()
    assert page.locator("article pre").all_inner_texts()[:2] == ['{\n  "a": 1\n}', "print(1)\n"]
    assert page.locator(".math").inner_text() == "\\boxed{2}"
    page.get_by_text("raw JSON").click()
    assert json.loads(page.locator("article > details:last-child pre").inner_text()) == row


def test_what_rollouts_say_is_text(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Markup, scripts and links in every field that there is, on every view, with and without a server."""
    rows = []
    for task, attack in enumerate(ATTACKS):
        row = rollout(task, 0, 1.0, attack, agent_ref={"name": attack}, prompt_id=attack)
        row["responses_create_params"]["input"] = [
            {"role": attack, "content": attack},
            {"role": "user", "content": attack},
        ]
        call = {"type": "function_call", "call_id": attack, "name": attack, "arguments": attack}
        row["response"]["output"] += [call, {"type": "function_call_output", "call_id": attack, "output": attack * 9}]
        row["response"]["output"].append({"type": "reasoning", "summary": [{"type": "summary_text", "text": attack}]})
        rows.append({**row, attack: attack, f"{attack} score": 1.0})
    path = write(tmp_path, rows)
    failure = {
        "failure_class": ATTACKS[0],
        "message": ATTACKS[2],
        "attempts": [],
        "row": rows[0],
        "agent_ref": {"name": ATTACKS[1]},
    }
    write(tmp_path, [{**failure, "_ng_task_index": 0, "_ng_rollout_index": 1}], "r_failures.jsonl")
    (tmp_path / "r_manifest.json").write_text(json.dumps({"agent_name": ATTACKS[1], "model": {ATTACKS[2]: ATTACKS[3]}}))
    (tmp_path / "r_summary.json").write_text(json.dumps({"command": ATTACKS[1], "failed_by_class": {ATTACKS[0]: 1}}))
    second = write(tmp_path, rows, "'><script>window.pwned=1<.jsonl")
    page = visit(made(path, compare_jsonl_fpath=str(second)))
    for place in ("overview", "compare", *(f"task-{task}" for task in range(len(ATTACKS)))):
        page.evaluate(f"location.hash = '/{place}'")
        if place.startswith("task"):
            page.wait_for_selector(f"text=Task {place[5:]}")
            page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.wait_for_timeout(50)
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("Object.prototype.pwned") is None
    assert page.locator("article script, article img, article svg, article iframe, article a").count() == 0
    page.evaluate("location.hash = '/task-0'")
    page.wait_for_selector("text=Task 0")
    assert ATTACKS[0] in page.locator("#detail").inner_text()


def test_two_runs(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """The paired difference, what flipped, and both runs' rollouts of a task; other tasks are not held together."""
    first, second = rollouts(6), rollouts(6)
    for row in second[:3]:
        row["reward"] = 1.0
    for row in second[-3:]:
        row["responses_create_params"] = {"input": "something else"}
    one, two = write(tmp_path, first, "one.jsonl"), write(tmp_path, second, "two.jsonl")
    page = visit(made(one, compare_jsonl_fpath=str(two)), "#/compare")
    cards = cards_of(page, "compare")
    assert (cards["tasks in common"], cards["wins, losses, ties"]) == ("5", "1, 0, 4")
    page.locator("#compare a").first.click()
    page.wait_for_selector("article")
    assert page.locator("article").count() == 6
    page.select_option("#only", "flipped")
    assert (
        page.locator("#count")
        .inner_text()
        .startswith("1 of" if sum(row["reward"] for row in first[:3]) / 3 < 0.5 else "0 of")
    )


def test_a_comparison_is_that_of_the_other_command(
    command: Callable[..., Ran], tmp_path: Path, visit: Callable[..., Page]
) -> None:
    """The same tasks, means and flips: finished rollouts alone, prompts to their ends, sums that floats do not bend."""
    opening = "the same words again and again " * 20

    def ask(reward: float, text: str) -> dict[str, Any]:
        asked = {"input": [{"role": "user", "content": opening + text}]}
        return {**rollout(2, 0, reward), "responses_create_params": asked}

    first = [rollout(0, index, reward) for index, reward in enumerate([1.0, 0.4, 0.4, 0.2])]
    second = [rollout(0, index, 0.3) for index in range(4)]
    first += [rollout(1, 0, 1.0), ask(0.0, "one"), rollout(3, 0, None), rollout(4, 0, 0.0)]
    second += [rollout(1, 0, 0.0), ask(1.0, "two"), rollout(3, 0, 1.0), rollout(4, 0, 0.25)]
    one, two = write(tmp_path, first, "one.jsonl"), write(tmp_path, second, "two.jsonl")
    write(tmp_path, [rollout(4, 1, 1.0), rollout(5, 0, 1.0)], "one_incomplete.jsonl")
    ran = command("+rollouts_jsonl_fpaths=one.jsonl,two.jsonl", "+intersection=true", script="ng_compare_rollouts")
    (found,) = json.loads(ran.stdout[ran.stdout.index("[\n") :])
    page = visit(made(one, compare_jsonl_fpath=str(two)), "#/compare")
    cards = cards_of(page, "compare")
    assert int(cards["tasks in common"]) == found["tasks"] == 3
    assert float(cards["difference"]) == pytest.approx(found["difference"], abs=1e-3)
    assert (
        f"0 tasks flipped to right, {len(found['flipped_to_wrong'])} to wrong"
        in page.locator("#compare p").inner_text()
    )
    assert len(found["flipped_to_wrong"]) == 2
    assert page.locator("#compare td", has_text="flipped").count() == 2
    assert page.locator("#compare tbody").first.locator("tr").count() == 3
    assert "1 tasks are only in the first, 2 only in the second" in page.locator("#compare p").inner_text()


def test_odd_rows_are_shown(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Fields of any name, openers that nothing closes, numbers as they are, a row that is no rollout of ours."""
    rows = [
        rollout(0, 0, 1.0, "\\(" * 100_000 + "$$ \\[ `" * 20_000),
        rollout(
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
    page = visit(made(write(tmp_path, rows)), "#/task-0")
    page.wait_for_selector("article", timeout=3000)
    for task, shown in ((1, "12345678901234567890"), (2, "rollout 0")):
        page.evaluate(f"location.hash = '/task-{task}'")
        page.wait_for_selector(f"#detail :text('Task {task}')", timeout=3000)
        assert shown in page.locator("#detail").inner_text()
    page.evaluate("location.hash = '/task-1'")
    page.wait_for_selector("#detail :text('Task 1')")
    assert "12,345.678" in page.locator("article h3").inner_text()
    page.get_by_text("raw JSON").click()
    assert '"one": 1.0' in page.locator("article > details:last-child pre").inner_text()


def test_the_strip_is_gone_along_by_keys(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Each bar says what it is; Enter opens it. The skip link leaves the view as it is."""
    page = visit(made(write(tmp_path, rollouts())))
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


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared rollouts are not here")
def test_real_rollouts_are_shown(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Every task of every file that NeMo Gym wrote, wide and narrow, light and dark."""
    options: list[dict[str, Any]] = [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 780}}]
    for number, source in enumerate(sorted(SHARED_DATA.glob("*/example_rollouts.jsonl"))):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(source.read_bytes())
        page = visit(made(path), **options[number % 3])
        tasks = page.evaluate("JSON.parse(document.getElementById('overview-data').textContent).files[0].cards[0][1]")
        for task in range(tasks):
            page.evaluate(f"location.hash = '/task-{task}'")
            page.wait_for_selector(f"#detail :text('Task {task}')")
            assert page.locator("article .message").count() > 0


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_jumps_and_nothing_sticks_out(tmp_path: Path, visit: Callable[..., Page], width: int) -> None:
    """No layout shift while it loads, no sideways scrolling of the page at any width."""
    page = visit(made(write(tmp_path, rollouts())), viewport={"width": width, "height": 800})
    shift = """() => new Promise(resolve => { let sum = 0;
        new PerformanceObserver(list => { for (const each of list.getEntries()) sum += each.value; })
            .observe({type: 'layout-shift', buffered: true}); setTimeout(() => resolve(sum), 100); })"""
    assert page.evaluate(shift) < 0.05
    for place in ("overview", "tasks", "task-3"):
        page.evaluate(f"location.hash = '/{place}'")
        page.wait_for_timeout(50)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_that_is_operated_has_a_name(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Inputs, choices, buttons, charts."""
    page = visit(made(write(tmp_path, rollouts())), "#/task-0")
    page.wait_for_selector("article")
    unnamed = """() => [...document.querySelectorAll('input, select, button, canvas, svg[role=img], [role=listbox], section, article')]
        .filter(each => !(each.getAttribute('aria-label') || each.closest('label') || each.textContent.trim())).map(each => each.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert page.evaluate("document.documentElement.lang") == "en"


def test_a_page_that_is_full_has_heads(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """And says where the rest is; the command says it, too."""
    noise = random.Random(1)
    rows = [rollout(task, 0, 1.0, f"{task} {noise.randbytes(4500).hex()} word{task}") for task in range(300)]
    path = write(tmp_path, rows)
    done = view(tmp_path, "+max_page_mb=0.1")
    assert re.search(r"warning: \d+ rollouts are listed without their messages", done.stderr)
    page = visit(path.with_suffix(".html"), "#/task-299")
    page.wait_for_selector("article")
    assert "+serve=true shows it" in page.locator("article").inner_text()
    page.check("#whole")
    page.fill("#query", "question 299")
    expect(page.locator("#count")).to_have_text(
        re.compile(r"1 of 300 tasks; the texts of \d+ rollouts are not in this page")
    )


def test_a_served_page_reads_rows_as_they_are_asked_for(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Only here, only under its own address, only rows of the file."""
    write(tmp_path, rollouts())
    command = [str(SCRIPTS / "ng_view_rollouts"), "+input_jsonl_fpath=r.jsonl", "+serve=true"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().split()[0]
            page = visit(url, "#/task-3")
            page.wait_for_selector("article")
            assert "answer 3/0" in page.locator("article").first.inner_text()
            page.fill("#query", "ANSWER 5/2")
            page.check("#whole")
            expect(page.locator("#count")).to_have_text("1 of 12 tasks")
            page.context.close()
            base = "/".join(url.split("/")[:3])
            for address, headers in (
                (f"{base}/", {}),
                (f"{url}../../etc/passwd", {}),
                (f"{url}rows?file=9&from=0&to=1", {}),
                (url, {"Host": "evil.example:80"}),
            ):
                with pytest.raises(urllib.error.HTTPError):
                    urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10)
        finally:
            process.terminate()
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["+input_jsonl_fpath=nope.jsonl"], "nope.jsonl cannot be read"),
        (["+score=acuracy"], "has the score 'acuracy': available scores: reward"),
        (["+output_html_fpath=r.jsonl"], "r.jsonl is not an .html file"),
        (["+serve=true", "+output_html_fpath=x.html"], "serve=true does not write a file"),
        (["+input_jsonl_fpath=empty.jsonl"], "empty.jsonl has no rollouts"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    """With exit code 2, and no page."""
    write(tmp_path, rollouts(2))
    (tmp_path / "empty.jsonl").touch()
    done = view(tmp_path, *arguments)
    assert (done.returncode, said in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
    assert not list(tmp_path.glob("*.html"))


def view(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS / "ng_view_rollouts"), "+input_jsonl_fpath=r.jsonl", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
