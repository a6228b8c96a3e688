"""Addresses: which screen is where. No GET changes anything."""

from __future__ import annotations

import asyncio
from functools import partial
from hashlib import sha256
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from nicegui import app, ui

from sapwood.errors import SapwoodError
from sapwood.page.actions import Actions
from sapwood.page.drawn.markup import el
from sapwood.page.drawn.shown import ASSETS
from sapwood.page.drawn.texts import Words, language
from sapwood.page.live import LiveRuns
from sapwood.page.opening import Opening
from sapwood.page.places import Places
from sapwood.page.shell import State, View, block, frame, head, problem
from sapwood.page.work.desk import Desk
from sapwood.page.work.jobs import Jobs

YEAR = 365 * 86400  # seconds for which a browser needn't ask again: the address changes with the files
STATIC = (
    f"/assets/{sha256(b''.join(file.read_bytes() for file in sorted(ASSETS.iterdir()))).hexdigest()[:12]}"
)


def register(opening: Opening) -> State:
    """Make the pages of this server."""
    state = state_of(opening)
    app.add_static_files(STATIC, ASSETS, max_cache_age=YEAR)
    app.on_page_exception(partial(failed, state))
    _pages(state)
    _files(state)
    return state


def state_of(opening: Opening) -> State:
    places = Places.of(opening.runs, opening.folders)
    jobs = Jobs(places.runs)
    actions = Actions(places, jobs, read_only=opening.read_only)
    return State(places, LiveRuns(places.runs), jobs, actions, Desk("desk"), Desk("voice"))


def view_of(state: State, request: Request) -> View:
    """The language and the light that this browser wants, and its part of the page's head."""
    cookies = request.cookies
    words = Words(language(cookies.get("lang"), request.headers.get("accept-language", "")))
    dark = cookies.get("dark") == "1"
    ui.add_head_html(
        f'<script>document.documentElement.lang="{words.lang_tag}";'
        f'document.documentElement.dataset.dark="{int(dark)}";</script>'
        f'<script src="{STATIC}/page.js"></script>'
        f'<link rel="stylesheet" href="{STATIC}/page.css"><link rel="stylesheet" href="{STATIC}/parts.css">'
    )
    return View(words, dark, state)


def _pages(state: State) -> None:
    @ui.page("/")
    async def home(request: Request, sort: str = "date") -> None:
        from sapwood.page.screens import home

        await home.build(view_of(state, request), sort)

    @ui.page("/run/{id}")
    async def a_run(request: Request, id: str, tab: str = "curves") -> None:
        from sapwood.page.screens import run

        await run.build(view_of(state, request), id, tab)

    @ui.page("/job/{id}")
    async def job(request: Request, id: str) -> None:
        from sapwood.page.screens import job

        await job.build(view_of(state, request), id)

    @ui.page("/data")
    async def data(request: Request) -> None:
        from sapwood.page.screens import data

        await data.build(view_of(state, request), dict(request.query_params))

    @ui.page("/new")
    async def new(request: Request) -> None:
        from sapwood.page.screens import new

        await new.build(view_of(state, request), dict(request.query_params))

    @ui.page("/compare")
    async def compare(request: Request, runs: str = "") -> None:
        from sapwood.page.screens import compare

        await compare.build(view_of(state, request), [name for name in runs.split(",") if name])

    @ui.page("/chat")
    async def chat(request: Request) -> None:
        from sapwood.page.screens import chat

        await chat.build(view_of(state, request), request.query_params.get("with", ""))

    @ui.page("/ship")
    async def ship(request: Request, run: str = "") -> None:
        from sapwood.page.screens import ship

        await ship.build(view_of(state, request), run)

    @ui.page("/machine")
    async def machine(request: Request) -> None:
        from sapwood.page.screens import machine

        await machine.build(view_of(state, request))


def failed(state: State, error: Exception) -> None:
    """What stands in place of a screen that couldn't be made: what happened, and the way to all others."""
    view = view_of(state, ui.context.client.request)
    title = view.words("failed.screen")
    with frame(view, "", title):
        block(head(title))
        if isinstance(error, SapwoodError):
            block(problem(error))
        else:
            block(el("p", f"{type(error).__name__}: {error}", cls="quiet"))


def _files(state: State) -> None:
    @app.get("/report/{name}")
    async def report(request: Request, name: str) -> Response:
        from sapwood.page.drawn.report import report_html

        path = state.places.run(name.removesuffix(".html"))
        if path is None:
            return PlainTextResponse("no such run", 404)
        words = Words(language(request.cookies.get("lang"), request.headers.get("accept-language", "")))
        content: Any = await asyncio.to_thread(report_html, path, words)
        return HTMLResponse(content)
