"""A browser for the tests of the page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium. Its API runs an event loop in this thread, so runs of these tests need their own process."""
    if not CHROMIUM:
        pytest.skip("needs Chromium on the PATH")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open an address in a new page, or in an open one.

    Console messages, errors, dialogs and requests to addresses that the test did not open fail the test.
    """
    problems: list[str] = []
    allowed = ["data:", "blob:"]
    contexts = []

    def new_page(**options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on(
            "request",
            lambda request: None if request.url.startswith(tuple(allowed)) else problems.append(request.url),
        )
        return page

    def opened(target: Path | str, fragment: str = "", page: Page | None = None, **options: Any) -> Page:
        url = target.as_uri() if isinstance(target, Path) else target
        allowed.append(url)
        page = page or new_page(**options)
        page.goto(url + fragment)
        page.wait_for_selector("body[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []
