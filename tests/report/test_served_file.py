"""Open pages learn of the end of a run, whoever notices it first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from ng_rollouts.outputs.paths import output_paths
from ng_rollouts.report import run_state
from ng_rollouts.report.run_state import is_running
from ng_rollouts.report.served_file import ServedFile
from ng_rollouts.report.server import ServedPage
from ng_rollouts.report.task_index import AgentNumbers
from ng_rollouts.storage.lock import holder_of, lock
from tests.report.helpers import rollout_rows
from tests.report.test_live import served as served_by_command
from tests.rollout_files import write_rows


@contextmanager
def run_that_writes(path: Path) -> Iterator[None]:
    """Hold the lock of an output, as the run that writes it does."""
    fd = lock(path)
    try:
        yield
    finally:
        os.close(fd)


def served(path: Path) -> tuple[ServedFile, ServedPage]:
    """A file behind a page, and the page."""
    agent_numbers = AgentNumbers()
    file = ServedFile(output_paths(str(path)), "reward", agent_numbers)
    return file, ServedPage([file], agent_numbers, "reward")


def version_of(page: ServedPage) -> str:
    """The version in a page that is loaded at this moment."""
    found = re.search(rb'"version": (\d+)', page.html())
    assert found
    return found[1].decode()


def put_in_order(path: Path) -> None:
    """Replace an output by its rows in order, as a run does at its end."""
    write_rows(path.with_suffix(".new"), rollout_rows()).replace(path)


def test_end_that_a_request_for_rows_reads_first_is_sent_to_open_pages(tmp_path: Path) -> None:
    """A request for rows reads an output that has moved. Open pages still load the index of the ended run."""
    path = write_rows(tmp_path / "r.jsonl", reversed(rollout_rows()))
    with run_that_writes(path):
        file, page = served(path)
        assert file.data().overview["heading"]["state"] == "running"
    put_in_order(path)
    with page.followed("0") as events:
        assert file.rows_of(3).count(b"\n") == 2
        assert not file.is_live
        page.poll()
        assert events.get_nowait().startswith(b"event: reload\n")
        page.poll()
        assert events.empty()


def test_order_that_a_request_for_rows_reads_first_is_sent_to_open_pages(tmp_path: Path) -> None:
    """The same for an output that was put in order by a run which goes on; its rows are in the new index alone."""
    path = write_rows(tmp_path / "r.jsonl", reversed(rollout_rows()))
    with run_that_writes(path):
        file, page = served(path)
        with page.followed("0") as events:
            put_in_order(path)
            with run_that_writes(path):
                assert file.rows_of(3).count(b"\n") == 2
                assert file.is_live
                page.poll()
            names = [events.get_nowait().partition(b"\n")[0] for _ in range(events.qsize())]
            assert names == [b"event: reload", b"event: status"]


def test_page_that_follows_only_after_the_end_of_the_run_loads_it(tmp_path: Path) -> None:
    """A page that was loaded before the run ended, and connects after that, loads the index; an up-to-date one does not."""
    path = write_rows(tmp_path / "r.jsonl", reversed(rollout_rows()))
    with run_that_writes(path):
        _, page = served(path)
        before = version_of(page)
    page.poll()
    with page.followed(before) as events:
        assert events.get_nowait().startswith(b"event: reload\n")
    with page.followed(version_of(page)) as events:
        assert events.empty()


def test_run_that_replaces_its_output_while_the_lock_is_tried_is_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run keeps its lock while it puts the output in order, also for who has opened the file before."""
    path = write_rows(tmp_path / "r.jsonl", reversed(rollout_rows()))
    locks = [lock(path)]

    def replaced_before(fd: int) -> str | None:
        monkeypatch.undo()
        new = write_rows(tmp_path / "r.new", rollout_rows())
        locks.append(lock(new))
        new.replace(path)
        os.close(locks.pop(0))
        return holder_of(fd)

    monkeypatch.setattr(run_state, "holder_of", replaced_before)
    assert is_running(output_paths(str(path)))
    os.close(locks.pop())
    assert not is_running(output_paths(str(path)))


def test_run_that_begins_and_ends_while_the_output_is_read_leaves_no_running_heading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of a file that no run writes has the heading of one, although a run locks it in between."""
    path = write_rows(tmp_path / "r.jsonl", rollout_rows())
    locks: list[int] = []
    monkeypatch.setattr(ServedFile, "_place", lambda *_: locks.append(lock(path)) if not locks else None)
    file, page = served(path)
    os.close(locks.pop())
    page.poll()
    assert file.data().overview["heading"]["state"] != "running"


def test_reply_that_is_overtaken_does_not_replace_the_newer_one(browser: Browser, tmp_path: Path) -> None:
    """Of two replies to the page's requests for the index, the one that was asked for last stays."""
    write_rows(tmp_path / "r.jsonl", rollout_rows())
    with served_by_command(tmp_path) as url:
        page = browser.new_page()
        page.add_init_script(_HELD_REPLIES)
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        texts = page.evaluate("reloadTwice()")
        assert texts == ["second", "second"]
        page.close()


_HELD_REPLIES = """
    // The page's own stream of events, to which the test adds two, and its requests for the index, which the test answers.
    const sources = [], asked = [], ask = window.fetch, Source = window.EventSource;
    window.EventSource = class extends Source { constructor(url) { super(url); sources.push(this); } };
    window.fetch = (url, ...rest) => url === "index" ? new Promise((answer) => asked.push(answer)) : ask(url, ...rest);
    const heading = () => document.querySelector("#run b").textContent;
    window.reloadTwice = async () => {
        const index = await (await ask("index")).json(), texts = [];
        for (const _ of [1, 2]) sources[0].dispatchEvent(new MessageEvent("reload", { data: "{}" }));
        for (const [number, text] of [[1, "second"], [0, "first"]]) {
            const answered = structuredClone(index);
            answered.files[0].heading.text = text;
            asked[number]({ json: async () => answered });
            await new Promise((later) => setTimeout(later));  // the page has drawn: it waits for nothing else
            texts.push(heading());
        }
        return texts;
    };
"""
"""Replies to requests for the index in another order than they were asked for."""
