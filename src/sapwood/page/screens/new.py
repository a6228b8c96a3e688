"""New run: a person names a file, a base and settings. The page proves the rows meanwhile, and then starts
or queues the run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nicegui import events, ui

from sapwood.base.sources import list_models
from sapwood.config.file import inline_yaml, parse_config
from sapwood.errors import SapwoodError
from sapwood.page import draft
from sapwood.page.drawn import parts, shown
from sapwood.page.drawn.markup import Safe, el, join
from sapwood.page.screens import pieces, verdict
from sapwood.page.screens.data import keep_draft
from sapwood.page.shell import View, block, button, frame, head, problem, tell
from sapwood.show.figures import size, visible

TYPING = 0.5  # seconds without a key after which the proof runs
AFTER = 1.0  # seconds after which the caches of the hubs are looked through
DATA = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt", ".xlsx", ".zip", ".gz", ".zst")
STARTS = (".yaml", ".yml", ".py", ".ipynb", ".md", ".json", ".sh", ".bin")


async def build(view: View, query: Mapping[str, str]) -> None:
    w = view.words
    with frame(view, "new", w("nav.new")):
        block(head(w("nav.new"), w("new.sub")))
        screen = Screen(view)
        screen.build()
        ui.timer(AFTER, screen.offer, once=True)
    if query.get("data"):
        screen.put("data.train", query["data"])


class Screen:
    """A config that one person is writing."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.settings: dict[str, Any] = {}
        self._fields: dict[str, Any] = {}
        self._number = 0
        self._proven = ""
        self._filling = False

    # --- what is shown ------------------------------------------------------------------------------------

    def build(self) -> None:
        w = self.view.words
        with ui.element("div").classes("columns"):
            with ui.element("div"):
                self._data()
                self._base()
                self._settings()
            with ui.element("div").classes("sticky"):
                with ui.element("div").classes("actions start"):
                    self._start = button(w("start"), lambda: self._go(waits=False), kind="strong", off=True)
                    self._queue = button(w("start.queue"), lambda: self._go(waits=True), off=True)
                self._said = block(el("p", w("new.first"), cls="quiet"))
                self._plan = block(Safe(""))
                self._yaml = block(Safe(""))
                self._proof = block(Safe(""))

    def _data(self) -> None:
        w = self.view.words
        with ui.element("section").classes("card"):
            block(el("h2", w("new.data")))
            if not self.view.read_only:
                drop = ui.upload(label=w("new.drop"), on_upload=self._dropped, auto_upload=True).classes(
                    "drop"
                )
                drop.props(f'flat bordered accept="{",".join((*DATA, *STARTS))}"')
                button(w("new.pick"), lambda: drop.run_method("pickFiles"))
            self._input("data.train", w("new.path"))
            self._first = block(Safe(""))
            block(el("p", w("new.bring"), cls="quiet"))
            with ui.element("div").classes("toolbar"):
                found = pieces.configs(self.view)
                self._from = ui.select(
                    found, label=w("new.from"), with_input=True, new_value_mode="add-unique"
                )
                self._from.props("outlined dense").on_value_change(
                    lambda e: self._later(self._bring(str(e.value)))
                )
            self._report = block(Safe(""))

    def _base(self) -> None:
        w = self.view.words
        with ui.element("section").classes("card"):
            block(el("h2", w("new.base")))
            names = {model.name: f"{model.name} · {size(model.size)}" for model in list_models()}
            field = ui.select(names, label="base.model", value="builtin:smollm2", with_input=True,
                              new_value_mode="add-unique")  # fmt: skip
            field.props("outlined dense").classes("field")
            field.on_value_change(lambda e: self._typed("base.model", e.value))
            self._fields["base.model"] = field
            self._storages = block(el("p", w("new.base.how"), cls="quiet"))

    async def offer(self) -> None:
        """Add the models in the caches of the hubs to the list of built-in models."""
        state, field = self.view.state, self._fields["base.model"]
        with suppress(SapwoodError):
            disk = await state.desk.ask("on_disk", runs=str(state.places.runs))
            models = [one for one in disk["held"] if one["kind"] == "model"]
            here = {one["name"]: f"{one['name']} · {size(one['size'])}" for one in models}
            field.set_options({**here, **field.options}, value=field.value)

    def _settings(self) -> None:
        w = self.view.words
        known = draft.sections()
        with ui.element("section").classes("card"):
            block(el("h2", w("new.settings")))
            with ui.element("div").classes("fields"):
                for key in draft.MAIN:
                    self._input(key, key)
            for section, fields in known.items():
                rest = [
                    name
                    for name in fields
                    if f"{section}.{name}" not in (*draft.MAIN, "data.train", "base.model")
                ]
                if rest:
                    with (
                        ui.expansion(w(f"section.{section}")).classes("fold"),
                        ui.element("div").classes("fields"),
                    ):
                        for name in rest:
                            self._input(f"{section}.{name}", f"{section}.{name}")

    def _input(self, key: str, label: str) -> None:
        usual = shown.defaults().get(key)
        hint = "" if usual is None or key == "data.train" else inline_yaml(usual)
        field = ui.input(label=label, placeholder=hint).props("outlined dense debounce=150 stack-label")
        field.classes("field wide" if key == "data.train" else "field")
        field.props(f'hint="{pieces.attribute(self.view.words(f"help.{key}"))}"')
        field.on_value_change(lambda e: self._typed(key, e.value))
        self._fields[key] = field

    # --- what a person does -------------------------------------------------------------------------------

    def put(self, key: str, value: Any) -> None:
        """Set a key, and show the value in its field."""
        field = self._fields.get(key)
        if field is None:
            self._typed(key, value)
        elif key == "base.model":
            if value not in field.options:
                field.set_options({**field.options, value: value}, value=value)
            else:
                field.set_value(value)
        else:
            field.set_value(value if isinstance(value, str) else inline_yaml(value))

    def _typed(self, key: str, value: Any) -> None:
        found = draft.to_value(value) if isinstance(value, str) and key != "base.model" else value
        if found is None or (key == "base.model" and found == "builtin:smollm2"):
            self.settings.pop(key, None)
        else:
            self.settings[key] = found
        if not self._filling:
            self._changed()
            if key == "data.train":
                self._later(self._look(str(value or "")))

    def _changed(self) -> None:
        self._number += 1
        self._proven = ""
        self._allow(False)
        self._later(self._prove(self._number))

    def _later(self, work: Any) -> None:
        """Run ``work`` for this browser, after the current event has been handled."""

        async def run() -> None:
            await work

        ui.timer(0, run, once=True)

    async def _dropped(self, event: events.UploadEventArguments) -> None:
        try:
            content = await event.file.read()
            path = self.view.state.actions.upload(event.file.name, content)
        except (SapwoodError, OSError) as error:
            tell(error)
            return
        if path.suffix.lower() in (".yaml", ".yml", ".py", ".ipynb", ".md", ".sh", ".bin"):
            await self._bring(draft.near(path))
        else:
            self.put("data.train", draft.near(path))

    async def _look(self, path: str) -> None:
        """Show the first rows of the file at ``path``."""
        w = self.view.words
        if not path.strip():
            self._first.show(Safe(""))
            return
        try:
            self.view.state.places.allowed(path, "data.train")
            found = await self.view.state.desk.ask("first_rows", path=path)
        except SapwoodError as error:
            self._first.show(problem(error))
            return
        shape = found["shape"] or w("new.shape.none")
        rows = [
            [el("code", row["row"]), el("span", visible(row["value"]), cls="clip")] for row in found["rows"]
        ]
        columns = [el("code", name) for name in found["columns"]]
        self._first.show(
            join(
                [
                    el(
                        "p",
                        w("new.shape"),
                        el("b", shape),
                        " · ",
                        w("new.columns"),
                        *columns,
                        cls="columns-line",
                    ),
                    el("details", el("summary", w("new.rows")), parts.table([w("row"), ""], rows)),
                ]
            )
        )

    async def _bring(self, path: str) -> None:
        """Fill the form from a config, a tutorial, a script, or a config of another tool."""
        w = self.view.words
        if not path or path == "None":
            return
        try:
            self.view.state.places.allowed(path, "import")
            text, report = await self._brought(path)
            settings = draft.from_yaml(text)
        except (SapwoodError, OSError) as error:
            self._report.show(problem(error) if isinstance(error, SapwoodError) else el("p", str(error)))
            return
        self._report.show(report)
        self._filling = True
        for key in [*self.settings]:
            self.put(key, "builtin:smollm2" if key == "base.model" else "")
        self.settings = {}
        for key, value in settings.items():
            if key != "save.dir":
                self.put(key, value)
        self._filling = False
        self._changed()
        await self._look(str(pieces.first(settings.get("data.train", ""))))
        ui.notify(w("new.brought", path=path), type="positive")

    async def _brought(self, path: str) -> tuple[str, Safe]:
        """(the config as YAML, a report of what was wrong in the file)."""
        if Path(path).suffix in (".yaml", ".yml"):
            text = Path(path).read_text(encoding="utf-8")
            try:
                parse_config(draft.tree_of(draft.from_yaml(text)))
                return text, Safe("")
            except SapwoodError:
                pass  # perhaps the config of another tool, which `bring` reads
        w = self.view.words
        found = await self.view.state.desk.ask("bring", path=path, lang=w.lang)
        return found["yaml"], pieces.report(self.view, found["report"])

    # --- the proof ----------------------------------------------------------------------------------------

    async def _prove(self, number: int) -> None:
        w = self.view.words
        yaml = self._text()
        self._yaml.show(pieces.written(self.view, self.settings, yaml))
        await asyncio.sleep(TYPING)
        if number != self._number:
            return
        if not self.settings.get("data.train"):
            self._said.show(el("p", w("new.first"), cls="quiet"))
            return
        try:
            draft.refuse_elsewhere(self.settings, self.view.state.places)
            parse_config(draft.tree_of(self.settings), "config")
            self._said.show(el("p", w("new.proving"), cls="quiet", role="status"))
            async for reply in self.view.state.desk.stream("check", yaml=yaml):
                if number != self._number:
                    return
                if "done" in reply:
                    self._show_proof(yaml, reply["done"])
        except SapwoodError as error:
            if number == self._number:
                title = el("p", w("new.faults", n=len(error.problems)), cls="notice bad-notice")
                self._said.show(join([title, verdict.faults(self.view, error)]))
                self._proof.show(Safe(""))
                self._plan.show(Safe(""))

    def _show_proof(self, yaml: str, found: Mapping[str, Any]) -> None:
        w = self.view.words
        self._proven = yaml
        rows = None  # an address of the rows needs a file, and a read-only page writes none
        if not self.view.read_only:
            name = keep_draft(self.view.state.places, yaml)
            rows = el("a", w("new.see"), href=f"/data?draft={name}", cls="btn")
        self._said.show(verdict.proven(self.view, found, rows))
        self._plan.show(pieces.storages(self.view, found["memory"]))
        self._proof.show(el("details", el("summary", w("tab.proof")), shown.study_facts(w, found)))
        self._allow(True)

    def _allow(self, may: bool) -> None:
        for made in (self._start, self._queue):
            made.set_enabled(may and not self.view.read_only)

    def _text(self) -> str:
        runs = draft.near(self.view.state.places.runs)
        return draft.to_yaml(self.settings if runs == "runs" else {**self.settings, "save.dir": runs})

    def _go(self, *, waits: bool) -> None:
        title = str(self.settings.get("name") or Path(str(pieces.first(self.settings["data.train"]))).stem)
        try:
            job = self.view.state.actions.train(self._proven, title, waits=waits)
        except (SapwoodError, OSError) as error:
            tell(error)
            return
        ui.navigate.to("/" if waits else f"/job/{job.id}")
