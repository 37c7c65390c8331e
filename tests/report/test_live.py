"""A served page follows a run from its start to its ordered end."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from tests.conftest import SCRIPTS, Ran, ended, read_rows, start, wait_until
from tests.servers import Served

FILES = ["+agent_name=a", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a page over r.jsonl, served by its own command."""
    command = [str(SCRIPTS / "ng_view_rollouts"), "+input_jsonl_fpath=r.jsonl", "+serve=true"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().split()[0]
        finally:
            process.terminate()


def rows_in_page(page: Page, task: int) -> list[Any]:
    """Task, rollout and reward of each rollout of a task, as the page reads it from the server."""
    lines: str = page.evaluate(f"fetch('rows?file=0&task={task}').then((reply) => reply.text())")
    rows = [json.loads(line.split("\t")[2]) for line in lines.split("\n") if line]
    return sorted([row["_ng_task_index"], row["_ng_rollout_index"], row.get("reward")] for row in rows)


def test_page_follows_a_run_from_its_start_to_its_ordered_end(
    browser: Browser, serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """New rollouts, counts, means and failures arrive while the run goes on; at its end, each task has its own rows."""
    server = serve(delay=[0.05, 0.25], faults={"400": 0.05}, sticky=True)
    tasks(500)
    run = [
        *FILES,
        f"+agent_url={server.url}",
        "+num_repeats=4",
        "+num_samples_in_parallel=64",
        "+max_failed_rollouts=2000",
    ]
    process = start(tmp_path, *run)
    wait_until(lambda: (tmp_path / "r.jsonl").exists() and (tmp_path / "r.jsonl").stat().st_size > 0)
    with served(tmp_path) as url:
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        assert page.locator("#run").inner_text().startswith("running, ")
        seen = []
        while process.poll() is None:
            tasks_so_far = int(
                page.locator(".card:has-text('tasks so far') b, .card:has-text('tasks') b")
                .first.inner_text()
                .replace(",", "")
            )
            seen.append(tasks_so_far)
            # The rows of a task are its own at any time, also while the file is put in order.
            for task in range(0, min(tasks_so_far, 40), 7):
                assert {row[0] for row in rows_in_page(page, task)} <= {task}
            page.wait_for_timeout(100)
        assert seen == sorted(seen)
        assert len(set(seen)) > 3
        ran = ended(process)
        assert ran.code == 0, ran.stderr
        page.wait_for_selector("#run:has-text('finished')", timeout=120_000)
        expected: dict[int, list[Any]] = defaultdict(list)
        for name in ("r.jsonl", "r_incomplete.jsonl", "r_failures.jsonl"):
            for row in read_rows(tmp_path / name):
                expected[row["_ng_task_index"]].append(
                    [row["_ng_task_index"], row["_ng_rollout_index"], row.get("reward")]
                )
        assert page.locator(".card:has-text('failed') b").inner_text() == str(
            len(read_rows(tmp_path / "r_failures.jsonl"))
        )
        assert {task: rows_in_page(page, task) for task in range(500)} == {
            task: sorted(rows) for task, rows in expected.items()
        }
        page.goto(f"{url}#/task-7")
        page.wait_for_selector("body[data-shown='7']")
        assert page.locator("article").count() == 4
        assert problems == []
        page.close()


def test_open_task_keeps_its_place_while_rollouts_arrive(
    browser: Browser, serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """A task that is read stays open, by its index, while tasks before it appear; and it gets its new rollouts."""
    server = serve(delay=[0.1, 0.4])
    tasks(200)
    run = [*FILES, f"+agent_url={server.url}", "+num_repeats=3", "+num_samples_in_parallel=30"]
    process = start(tmp_path, *run)
    wait_until(lambda: (tmp_path / "r.jsonl").exists() and len((tmp_path / "r.jsonl").read_bytes().splitlines()) > 20)
    with served(tmp_path) as url:
        page = browser.new_page()
        page.goto(f"{url}#/task-5")
        page.wait_for_selector("body[data-shown='5']")
        while process.poll() is None:
            assert "Task 5" in page.locator("#detail h2").first.inner_text()
            page.wait_for_timeout(100)
        assert ended(process).code == 0
        page.wait_for_selector("#run:has-text('finished')", timeout=120_000)
        page.wait_for_function("document.querySelectorAll('article').length === 3")
        assert {row[0] for row in rows_in_page(page, 5)} == {5}
        page.close()


def test_interrupted_run_is_not_taken_for_a_finished_one(command: Callable[..., Ran], tmp_path: Path) -> None:
    """The heading of a page says how many of the planned rollouts there are, and that the run was interrupted."""
    rows = [{"_ng_task_index": 0, "_ng_rollout_index": 0, "reward": 1.0}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"planned": 1000, "collected": 289, "failed": 0, "not_done": 711, "finished": None, "exit_code": 130}
    (tmp_path / "r_summary.json").write_text(json.dumps(summary))
    assert command("+input_jsonl_fpath=r.jsonl", script="ng_view_rollouts").code == 0
    assert "289 of 1,000 rollouts, interrupted" in (tmp_path / "r.html").read_text()


def test_file_without_rollouts_is_refused(command: Callable[..., Ran], tasks: Callable[..., Path]) -> None:
    """A file of tasks has neither responses nor scores: there is nothing to show."""
    tasks(3)
    ran = command("+input_jsonl_fpath=tasks.jsonl", script="ng_view_rollouts")
    assert (ran.code, "has no rollouts: its rows have neither a response nor a score" in ran.stderr) == (2, True)


def test_run_serves_its_page(serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path) -> None:
    """With `serve=true`, the command prints the address of a page that follows it, and ends as usual."""
    server = serve(delay=[0.5, 1.0])
    tasks(20)
    process = start(tmp_path, *FILES, f"+agent_url={server.url}", "+num_samples_in_parallel=4", "+serve=true")
    assert process.stderr
    line = process.stderr.readline()
    assert line.startswith("page: http://127.0.0.1:"), line
    with urllib.request.urlopen(line.split()[1], timeout=300) as reply:
        assert b"running, " in reply.read()
    assert ended(process).code == 0
    assert len(read_rows(tmp_path / "r.jsonl")) == 20
