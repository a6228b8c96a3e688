"""A real Chromium for the tests that look at pages; they skip, with the reason, where none is installed."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (  # the page under test is all that it may ask for
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


@contextmanager
def browser_page(width: int, height: int, *, dark: bool = False) -> Generator[Page]:
    """A page of ``width`` x ``height`` CSS pixels whose errors and requests to other hosts fail the test."""
    from playwright.sync_api import sync_playwright

    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)}")
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: faults.extend(_elsewhere(asked.url)))
        yield page
        browser.close()
    assert not faults, faults


def _elsewhere(url: str) -> list[str]:
    here = url.startswith(("file:", "data:", "about:", "http://127.0.0.1"))
    return [] if here else [f"the page asks for {url}"]
