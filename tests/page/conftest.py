"""One server and one really trained run for all tests of the page."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.base.caches import in_hugging_face
from tests.browser import chromium, page_in
from tests.page.hostile import HOSTILE
from tests.page.shared import Server, made_run, serve, write_rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Looking = Callable[..., "AbstractContextManager[Page]"]

pytest.importorskip("nicegui", reason="the page needs NiceGUI: pip install -e '.[ui]'")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, a cache of a hub, and 300 rows, 200 of them hostile."""
    from tests.base.tiny import tiny_llama

    folder = tmp_path_factory.mktemp("page")
    tiny_llama(folder)
    in_hugging_face(folder / "hf", "model:org/held-base", config__json=b"{}", model__safetensors=b"x" * 9000)
    in_hugging_face(folder / "hf", "model:org/held-adapter", adapter_config__json=b"{}")
    rows = [
        {"prompt": f"What grows on row {i}?", "completion": f"An apple tree, neighbour {i}."}
        for i in range(98)
    ]
    rows += [rows[3], {"prompt": rows[4]["prompt"], "completion": "Never."}]
    rows += [{"prompt": f"{i}: {text}", "completion": text} for i, text in enumerate(HOSTILE)]
    write_rows(folder / "rows.jsonl", rows)
    return folder


@pytest.fixture(scope="session")
def runs(home: Path) -> Path:
    """A run that was really trained, and three that were only recorded."""
    from sapwood import finetune, parse_config

    folder = home / "runs"
    tree = {
        "name": "trees", "base": {"model": str(home / "tiny-llama"), "storage": "fp32"},
        "data": {"train": [str(home / "rows.jsonl")], "eval": 8}, "save": {"dir": str(folder)},
        "train": {"max_steps": 3, "batch_size": 4}, "eval": {"samples": 2, "max_new_tokens": 8},
    }  # fmt: skip
    finetune(parse_config(tree))
    made_run(folder, "first")
    made_run(folder, "second", lora={"rank": 16})
    made_run(folder, "stopped", status="stopped")
    return folder


@pytest.fixture(scope="session")
def trained(runs: Path) -> Path:
    return next(runs.glob("*-trees-*"))


@pytest.fixture(scope="session")
def server(home: Path, runs: Path) -> Generator[Server]:
    found = serve(home, runs)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def looking(browser: Browser) -> Looking:
    """Opens a page of a server for somebody who was let in."""

    @contextmanager
    def look(
        server: Server, width: int = 1280, height: int = 860, *, dark: bool = False, zh: bool = False
    ) -> Generator[Page]:
        languages = {"Accept-Language": "zh-CN,zh;q=0.9" if zh else "en-US,en;q=0.9"}
        with page_in(browser, width, height, dark=dark, extra_http_headers=languages) as page:
            try:
                page.goto(server.url(f"/?token={server.token}"))
                page.locator("h1").wait_for()
                yield page
            except Exception as error:
                error.add_note(f"the server said: {server.said.read_text()[-4000:]}")
                raise

    return look
