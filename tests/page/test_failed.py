"""A screen that can't be made: what stands in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapwood.errors import ConfigError

ERRORS = {
    "ValueError: an odd value": ValueError("an odd value"),
    "sort": ConfigError("no such order", "sort", mend="sort=name"),
}


@pytest.mark.parametrize("shown", ERRORS)
def test_a_screen_that_fails_says_what_happened_and_leaves_the_way_to_all_others(
    shown: str, tmp_path: Path
) -> None:
    from nicegui import Client, ui
    from starlette.requests import Request

    from sapwood.page.opening import Opening
    from sapwood.page.routes import failed, state_of

    request = Request({
        "type": "http", "method": "GET", "path": "/", "query_string": b"", "server": ("127.0.0.1", 8765),
        "headers": [(b"accept-language", b"zh-CN")],
    })  # fmt: skip
    with Client(ui.page("/"), request=request) as client:
        failed(state_of(Opening(tmp_path, (tmp_path,))), ERRORS[shown])
    said = " ".join(str(one.props.get("innerHTML", "")) for one in client.elements.values())
    assert shown in said and "无法显示此页面" in said
    assert all(f'href="/{name}"' in said for name in ("", "data", "machine"))
