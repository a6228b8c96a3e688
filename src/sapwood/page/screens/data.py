"""Data: every row of a run or of a config, searched, filtered, sorted; and each one token by token."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from nicegui import ui

from sapwood.errors import SapwoodError
from sapwood.page.drawn import parts
from sapwood.page.drawn.markup import Child, Safe, el, join
from sapwood.page.drawn.svg import bars
from sapwood.page.drawn.texts import Words
from sapwood.page.live import title_of
from sapwood.page.places import Places
from sapwood.page.shell import View, block, button, frame, head, problem, tell
from sapwood.run.query import run_folders
from sapwood.show.figures import UNKNOWN, number, visible

SHOWN = 50  # rows of a page
SORTS = ("", "tokens", "share", "loss")
SIDES = ("", "train", "held")
DRAFTS = Path(".page") / "drafts"  # below the runs: configs that are being written, by hash
LOSSES = Path(".page") / "losses"  # and measured losses, by run
MOST = 400  # rows whose loss is measured at a click

Query = dict[str, str]


async def build(view: View, query: Query) -> None:
    w, places = view.words, view.state.places
    run = places.run(query.get("run", ""))
    draft = places.runs / DRAFTS / f"{query.get('draft', '')}.yaml"
    with frame(view, "data", w("nav.data")):
        if run is None and not (query.get("draft", "").isalnum() and draft.is_file()):
            _choose(view)
            return
        name = title_of(run) if run is not None else draft.stem[:8]
        back = f"/run/{run.name}" if run is not None else "/new"
        block(head(w("nav.data"), el("a", name, href=back, cls="name")))
        screen = Screen(view, query, run, draft)
        await screen.build()


def _choose(view: View) -> None:
    w = view.words
    block(head(w("nav.data"), w("data.choose")))
    found = list(reversed(run_folders(view.state.places.runs)))
    if not found:
        block(
            parts.empty(
                w("home.empty"), w("data.empty"), el("a", w("nav.new"), href="/new", cls="btn strong")
            )
        )
        return
    rows = [[el("a", title_of(path), href=f"/data?run={path.name}", cls="name")] for path in found]
    block(parts.table([w("run")], rows))


def keep_draft(places: Places, yaml: str) -> str:
    """Store a config under its hash, so that its rows have an address."""
    name = hashlib.sha256(yaml.encode()).hexdigest()[:24]
    folder = places.runs / DRAFTS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml, encoding="utf-8")
    return name


class Screen:
    """The rows as one person sees them. The address of the page holds the filters and the open row."""

    def __init__(self, view: View, query: Query, run: Path | None, draft: Path) -> None:
        self.view, self.query = view, {key: query[key] for key in query if query[key]}
        self.run, self.draft = run, draft
        name = run.name if run is not None else draft.stem
        self.losses = str(view.state.places.runs.absolute() / LOSSES / f"{name}.npz")
        self._key, self._facts = "", dict[str, Any]()

    async def build(self) -> None:
        w = self.view.words
        self._wait = block(el("p", w("data.opening"), cls="quiet", role="status"))
        self._top = block(Safe(""))
        self._chips = block(Safe(""))
        with ui.element("div").classes("toolbar search"):
            field = ui.input(placeholder=w("search"), value=self.query.get("q", ""))
            field.props(f'outlined dense clearable debounce=180 type=search aria-label="{w("search")}"')
            field.classes("search-field")
            field.on_value_change(lambda e: self._set(q=e.value or "", page="", row=""))
            self._sorts = block(Safe(""))
            if self.run is not None and not self.view.read_only:
                button(w("data.measure"), self._measure)
        with ui.element("div").classes("columns data"):
            self._table = block(Safe(""))
            with ui.element("div").classes("sticky"):
                self._row = block(el("p", w("data.row.none"), cls="quiet"))
        ui.on("go", lambda e: self._go(str(e.args)))
        ui.timer(0.05, self._open, once=True)

    async def _open(self) -> None:
        run = str(self.run) if self.run is not None else ""
        try:
            self._facts = await self.view.state.desk.ask(
                "open_rows", run=run, losses=self.losses, **self._about()
            )
        except SapwoodError as error:
            self._wait.show(problem(error))
            return
        self._key = self._facts["key"]
        self._wait.show(Safe(""))
        self._top.show(self._summary())
        await self._show()
        if self._facts["counts"]["odd"] is None:
            ui.timer(1.0, self._show, once=True)
        if self.query.get("row", "").isdecimal():
            await self._see(int(self.query["row"]))

    def _about(self) -> dict[str, str]:
        return {} if self.run is not None else {"yaml": self.draft.read_text("utf-8")}

    def _summary(self) -> Safe:
        w, facts = self.view.words, self._facts
        share = 100 * facts["targets"] / max(1, facts["tokens"])
        figures: list[tuple[str, Child, Child]] = [
            (w("rows"), f"{facts['rows']:,}", w("rows.held", n=f"{facts['held']:,}")),
            (w("tokens"), f"{facts['tokens']:,}", w("tokens.learnt", share=f"{share:.0f}")),
            (w("measured"), f"{facts['measured']:,}", w("measured.of")),
        ]
        picture = bars(facts["histogram"], facts["max_length"], w("cut.line"))
        return join([parts.tiles(figures), el("details", el("summary", w("lengths")), picture)])

    async def _show(self) -> None:
        w, query = self.view.words, self.query
        began = time.perf_counter()
        try:
            found = await self.view.state.desk.ask(
                "find_rows", key=self._key, search=query.get("q", ""), issue=query.get("issue", ""),
                side=query.get("side", ""), sort=query.get("sort", "").removeprefix("-"),
                down=query.get("sort", "").startswith("-"), start=self._page() * SHOWN, count=SHOWN,
            )  # fmt: skip
        except SapwoodError as error:
            self._table.show(problem(error))
            return
        took = time.perf_counter() - began
        self._chips.show(self._filters(found["counts"]))
        self._sorts.show(self._orders())
        pages = self._pages(found["total"], took)
        rows = [self._line(row) for row in found["rows"]]
        columns = [w("row"), w("tokens"), w("share"), w("loss"), ""]
        self._table.show(join([pages, parts.table(columns, rows, cls="rows", label=w("rows")), pages]))

    def _line(self, row: Mapping[str, Any]) -> list[Child]:
        w = self.view.words
        issues = [el("span", w(f"issue.{issue}"), cls="badge") for issue in row["issues"]]
        side = el("span", w("side.held"), cls="badge held") if row["held"] else None
        link = el("a", visible(row["row"]), href=self._address(row=str(row["at"]), loss=""), cls="name")
        return [
            join([link, el("small", visible(row["text"]), cls="quiet clip", dir="auto"), side, issues]),
            f"{row['tokens']:,}", f"{100 * row['share']:.0f} %", number(row["loss"], 2), "",
        ]  # fmt: skip

    async def _see(self, at: int) -> None:
        w = self.view.words
        try:
            row = await self.view.state.desk.ask("see_row", key=self._key, at=at, **self._about())
        except SapwoodError as error:
            self._row.show(problem(error))
            return
        self._row.show(self._mask(row, None))
        if self.run is None:
            return
        self._loss_of = row
        if self.query.get("loss"):
            await self._token_losses()
        else:
            link = el("a", w("data.losses"), href=self._address(row=str(at), loss="1"), cls="btn")
            self._row.show(join([self._mask(row, None), el("p", link)]))

    async def _token_losses(self) -> None:
        """Compute the loss of each token of the open row, with the model, and show the losses."""
        w, row = self.view.words, self._loss_of
        self._row.show(
            join([self._mask(row, None), el("p", w("data.measuring"), cls="quiet", role="status")])
        )
        runs = str(self.view.state.places.runs)
        try:
            found = await self.view.state.voice.ask("see_losses", run=str(self.run), runs=runs, at=row["at"])
        except SapwoodError as error:
            self._row.show(join([self._mask(row, None), problem(error)]))
            return
        self._row.show(self._mask(row, found))

    def _mask(self, row: Mapping[str, Any], losses: Mapping[str, Any] | None) -> Safe:
        w = self.view.words
        issues = [el("span", w(f"issue.{issue}"), cls="badge") for issue in row["issues"]]
        key = el(
            "p", el("span", w("learnt"), cls="on"), el("span", w("not.learnt")),
            el("span", w("control"), cls="ctl"),
            cls="tokens keys",
        )  # fmt: skip
        return el(
            "article",
            el("h2", visible(row["row"])),
            el("p", visible(row["summary"]), cls="quiet"),
            el("p", issues) if issues else None,
            key,
            el("div", chips(w, row["pieces"], losses), cls="tokens", dir="auto"),
            cls="card",
        )

    # --- what is chosen -----------------------------------------------------------------------------------

    def _set(self, **changes: str) -> None:
        self.query = {key: value for key, value in {**self.query, **changes}.items() if value}
        ui.navigate.history.replace(self._address())
        if set(changes) - {"row", "loss"}:
            ui.timer(0, self._show, once=True)
        row = self.query.get("row", "")
        if {"row", "loss"} & set(changes) and row.isdecimal():
            ui.timer(0, lambda: self._see(int(row)), once=True)

    def _go(self, address: str) -> None:
        """Follow a link within this screen, without loading the page again."""
        wanted = dict(parse_qsl(urlsplit(address).query))
        changes = {key: wanted.get(key, "") for key in {*wanted, *self.query}}
        self._set(**{key: value for key, value in changes.items() if self.query.get(key, "") != value})

    def _address(self, **changes: str) -> str:
        query = {key: value for key, value in {**self.query, **changes}.items() if value}
        return f"/data?{urlencode(query)}"

    def _page(self) -> int:
        text = self.query.get("page", "")
        return int(text) if text.isdecimal() else 0

    def _filters(self, counts: Mapping[str, int | None]) -> Safe:
        w, now = self.view.words, self.query.get("issue", "")
        chips_ = [
            el(
                "a",
                w("issue.all"),
                href=self._address(issue="", page=""),
                aria_current=None if now else "true",
            )
        ]
        chips_ += [
            el("a", w(f"issue.{issue}"), " ", el("b", UNKNOWN if count is None else f"{count:,}"),
               href=self._address(issue=issue, page=""), aria_current="true" if now == issue else None)
            for issue, count in counts.items()
        ]  # fmt: skip
        side = self.query.get("side", "")
        chips_ += [
            el("a", w(f"side.{name}"), href=self._address(side="" if side == name else name, page=""),
               aria_current="true" if side == name else None)
            for name in SIDES[1:]
        ]  # fmt: skip
        return el("nav", chips_, cls="chips", aria_label=w("filter"))

    def _orders(self) -> Safe:
        w, now = self.view.words, self.query.get("sort", "")
        links: list[Safe] = []
        for name in SORTS:
            mine = now.removeprefix("-") == name
            to = name if not mine or now.startswith("-") else f"-{name}"
            to = f"-{name}" if name and not mine else to
            arrow = "" if not mine or not name else " ↓" if now.startswith("-") else " ↑"
            links.append(
                el("a", w(f"order.{name or 'file'}") + arrow, href=self._address(sort=to, page=""),
                   aria_current="true" if mine else None)
            )  # fmt: skip
        return el("p", el("span", w("sort")), links, cls="sorts")

    def _pages(self, total: int, took: float) -> Safe:
        w, page = self.view.words, self._page()
        last = max(0, (total - 1) // SHOWN)
        first, final = min(total, page * SHOWN + 1), min(total, (page + 1) * SHOWN)
        said = w("rows.shown", first=f"{first:,}", last=f"{final:,}", total=f"{total:,}")
        links = [
            el("a", word, href=self._address(page=str(to)), cls="btn" if 0 <= to <= last else "btn off")
            for word, to in (("‹", page - 1), ("›", page + 1))
        ]
        return el("p", el("span", said, cls="quiet", title=f"{1000 * took:.0f} ms"), links, cls="pages")

    async def _measure(self) -> None:
        """Compute the losses of the rows, with the model, in the process that the page keeps for models."""
        w, state = self.view.words, self.view.state
        try:
            state.actions.may()
            about = {"run": str(self.run), "runs": str(state.places.runs), "file": self.losses, "most": MOST}
            async for reply in state.voice.stream("row_losses", **about):
                if "piece" in reply:
                    self._wait.show(
                        el("p", w("data.progress", **reply["piece"]), cls="notice", role="status")
                    )
        except SapwoodError as error:
            tell(error)
        self._wait.show(Safe(""))
        await self._open()


def chips(w: Words, pieces: list[Mapping[str, Any]], losses: Mapping[str, Any] | None) -> list[Child]:
    """The tokens of a row, with learnt tokens marked. Known losses decide how dark a learnt token is."""
    out: list[Child] = []
    at = 0
    for piece in pieces:
        span = range(at, at + len(piece["ids"]))
        at = span.stop
        said = [f"{' '.join(map(str, piece['ids']))} · {w('learnt') if piece['on'] else w('not.learnt')}"]
        shade = None
        if losses is not None:
            own = sum(losses["adapter"][i] or 0.0 for i in span)
            base = sum(losses["base"][i] or 0.0 for i in span)
            said.append(w("token.loss", own=f"{own:.2f}", base=f"{base:.2f}"))
            if piece["on"]:
                shade = f"background:color-mix(in srgb,var(--red) {min(45, 9 * own):.0f}%,var(--green-soft))"
        kind = ("on" if piece["on"] else "") + (" ctl" if piece["ctl"] else "")
        text = visible(piece["text"])
        out.append(el("span", text, cls=kind or None, tabindex=0, data_i="\n".join(said), style=shade))
        out += [el("br")] * piece["lines"]
    return out
