"""The buttons of a served page control the run, and no other page can send their commands."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from ng_rollouts.control.client import send_command
from tests.conftest import ended, start, wait_until
from tests.report.test_live import FILES, served
from tests.servers import Served


def post(url: str, body: bytes, headers: dict[str, str]) -> Any:
    """The reply to a POST."""
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=300) as reply:
        return json.load(reply)


def test_buttons_of_the_page_pause_resume_and_drain_the_run(
    browser: Browser, serve: Callable[..., Served], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """The page shows the numbers of the run, its buttons change the run, and forged requests do not."""
    server = serve(delay=[0.05, 0.1])
    tasks(4000)
    process = start(tmp_path, *FILES, f"+agent_url={server.url}", "+num_samples_in_parallel=2")
    wait_until(lambda: (tmp_path / "r.jsonl").exists() and (tmp_path / "r.jsonl").stat().st_size > 0)
    socket = tmp_path / "r_control.sock"
    with served(tmp_path) as url:
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#control:not([hidden])")
        page.click("text=Pause")
        wait_until(lambda: send_command(socket, "status")["status"]["paused"])
        # Not `wait_for_function`: the page's policy forbids evaluated text.
        page.wait_for_selector("#control-text:has-text('paused')")
        page.wait_for_selector("#run .state:has-text('paused, ')")
        assert " left" not in (page.text_content("#run .state") or "")
        own, body = f"http://{url.split('/')[2]}", b'{"command": "resume"}'
        for headers in (
            {"content-type": "application/json"},
            {"content-type": "application/json", "origin": "http://evil.example"},
            {"content-type": "text/plain", "origin": own},
            {"content-type": "application/json", "origin": "http://evil.example:80", "host": "evil.example:80"},
        ):
            with pytest.raises(urllib.error.HTTPError) as rejected:
                post(f"{url}control", body, headers)
            assert rejected.value.code == 403
            rejected.value.close()
        allowed = {"content-type": "application/json", "origin": own}
        for refused in (b'{"command": "cancel 1"}', b"[]", b"{"):
            reply = post(f"{url}control", refused, allowed)
            assert reply == {"ok": False, "error": "a page sends only the commands pause, resume and drain"}
        with pytest.raises(urllib.error.HTTPError) as rejected:
            post(f"{own}/x/control", body, allowed)
        assert rejected.value.code == 404
        rejected.value.close()
        assert send_command(socket, "status")["status"]["paused"]
        page.click("text=Resume")
        wait_until(lambda: not send_command(socket, "status")["status"]["paused"])
        page.click("text=Drain")
        assert ended(process).code == 130
        page.wait_for_selector("#control[hidden]", state="attached")
        assert problems == []
        page.close()
    logged = json.loads((tmp_path / "r_summary.json").read_bytes())["control"]
    assert [(each["command"], each["by"]) for each in logged] == [
        (name, "page") for name in ("pause", "resume", "drain")
    ]
