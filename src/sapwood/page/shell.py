"""The frame of every screen: where one is, where one can go, in which language and light."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from sapwood.errors import SapwoodError
from sapwood.page.actions import Actions
from sapwood.page.drawn.markup import Child, Safe, el
from sapwood.page.drawn.texts import Words
from sapwood.page.live import LiveRuns
from sapwood.page.places import Places
from sapwood.page.work.desk import Desk
from sapwood.page.work.jobs import Jobs

PLACES = (
    ("home", "/", "M3 11 12 4l9 7v9h-6v-6H9v6H3z"),
    ("new", "/new", "M12 5v14M5 12h14"),
    ("data", "/data", "M4 6h16M4 12h16M4 18h10"),
    ("compare", "/compare", "M4 18 9 9l4 5 7-9M4 13l5 2 5-6 6 3"),
    ("chat", "/chat", "M4 5h16v11H9l-5 4z"),
    ("ship", "/ship", "M12 15V4m-4 4 4-4 4 4M4 15v5h16v-5"),
    ("machine", "/machine", "M5 5h14v10H5zM9 20h6M12 15v5"),
)


@dataclass(frozen=True, slots=True)
class State:
    """What all viewers of this server share."""

    places: Places
    runs: LiveRuns
    jobs: Jobs
    actions: Actions
    desk: Desk
    voice: Desk


@dataclass(frozen=True, slots=True)
class View:
    """One viewer's settings: the language, the light."""

    words: Words
    dark: bool
    state: State

    @property
    def read_only(self) -> bool:
        return self.state.actions.read_only


class Block:
    """A piece of markup that is sent again only when it changed."""

    def __init__(self, content: Safe = Safe(""), cls: str = "") -> None:  # noqa: B008
        self.element = ui.html(content, sanitize=False).classes(cls)
        self._content = str(content)

    def show(self, content: Safe) -> None:
        if content != self._content:
            self._content = str(content)
            self.element.set_content(content)


@contextmanager
def frame(view: View, at: str, title: str) -> Generator[None]:
    """The page around a screen."""
    w = view.words
    ui.page_title(f"{title} · sapwood")
    ui.colors(
        primary="#27703f", secondary="#59625c", accent="#8a5a0b", negative="#a8322a", positive="#27703f"
    )
    ui.dark_mode(view.dark)
    with ui.element("div").classes("app"):
        ui.html(_rail(view, at), sanitize=False, tag="div").classes("rail-box")
        with ui.element("main").classes("main").props("id=main tabindex=-1"):
            if view.read_only:
                block(el("p", w("readonly"), cls="notice"))
            yield


def _rail(view: View, at: str) -> Safe:
    w = view.words
    links = [
        el(
            "a",
            icon(path),
            el("span", w(f"nav.{name}")),
            href=to,
            cls="on" if name == at else None,
            aria_current="page" if name == at else None,
        )
        for name, to, path in PLACES
    ]
    other = "中文" if w.lang == "en" else "English"
    switches = [
        el(
            "button",
            other,
            type="button",
            data_lang="zh" if w.lang == "en" else "en",
            aria_label=w("language"),
        ),
        el(
            "button",
            "☀" if view.dark else "☾",
            type="button",
            data_theme="light" if view.dark else "dark",
            aria_label=w("light") if view.dark else w("dark"),
        ),
    ]
    return el(
        "div",
        el("a", w("skip"), href="#main", cls="skip"),
        el("a", el("i", cls="mark"), el("b", "sapwood"), href="/", cls="brand"),
        el("nav", links, aria_label=w("navigation")),
        el("div", switches, cls="switches"),
        cls="rail",
    )


def icon(path: str) -> Safe:
    return el(
        "svg",
        el("path", d=path, fill="none", stroke="currentColor", stroke_width="1.7", stroke_linejoin="round"),
        viewBox="0 0 24 24",
        width=20,
        height=20,
        aria_hidden="true",
    )


def block(content: Safe, cls: str = "") -> Block:
    return Block(content, cls)


def chart(options: dict[str, Any], cls: str) -> ui.echart:
    """A chart of ECharts. Its loop of animation frames stops as soon as the drawing stands still: by itself
    it goes on for ten frames, and each of them interrupts a training."""
    made = ui.echart(options).classes(cls)
    rest = f"() => getElement({made.id}).chart.getZr().setSleepAfterStill(1)"
    made.on("chart:finished", js_handler=rest)
    return made


def head(title: Child, *below: Child) -> Safe:
    """The title of a screen, with a line below it."""
    return el("header", el("h1", title), el("p", below, cls="sub") if below else None, cls="head")


def button(text: str, act: Callable[[], Any], *, kind: str = "", off: bool = False) -> ui.button:
    """kind: strong for what a screen is for, danger for what can't be taken back, quiet else."""
    made = ui.button(text, on_click=act, color=None).props(f"no-caps unelevated {'disable' if off else ''}")
    return made.classes(f"btn {kind}")


def problem(error: SapwoodError) -> Safe:
    """An error as a person reads it: what, where, why, how to mend it."""
    rows = [
        el(
            "li",
            el("b", one.what),
            el("code", one.where) if one.where else None,
            el("span", one.why) if one.why else None,
            el("em", one.mend) if one.mend else None,
        )
        for one in error.problems[: error.shown]
    ]
    more = len(error.problems) - error.shown
    return el("ul", rows, el("li", f"… +{more}") if more > 0 else None, cls="problems", role="alert")


def tell(error: Exception) -> None:
    """Show why something wasn't done."""
    ui.notify(str(error), type="negative", multi_line=True, position="bottom", close_button="✕")


def guarded(act: Callable[[], Any]) -> Callable[[], Any]:
    """An action whose refusal is shown."""

    def acting() -> None:
        try:
            act()
        except (SapwoodError, OSError) as error:
            tell(error)

    return acting
