"""Chat: the base and adapters answer one question beside each other. An answer can be kept as a row of data,
and two answers as a preference pair."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nicegui import ui

from sapwood.adapter.facts import ADAPTER_DIR
from sapwood.base.sources import list_models
from sapwood.errors import SapwoodError
from sapwood.page.drawn.markup import Child, Safe, el, join
from sapwood.page.drawn.texts import Words
from sapwood.page.live import title_of
from sapwood.page.shell import Block, View, block, button, frame, guarded, head, problem
from sapwood.run.query import run_folders
from sapwood.run.store import CHECKPOINTS
from sapwood.show.figures import visible

REDRAW = 0.12  # seconds between two drawings of an answer that is being written
SURE, LIKELY = 0.9, 0.5  # probabilities above which a token isn't marked, or only a little
ROWS, PAIRS = "chat", "pairs"
EXACT = 1e-3  # nats: an adapter that is off differs from the base only by the order of sums

SAMPLING = (  # name, value, least, most, step
    ("temperature", 0.0, 0, 5, 0.1), ("top_p", 1.0, 0.01, 1, 0.05), ("top_k", 0, 0, None, 1),
    ("repetition_penalty", 1.0, 0.1, 10, 0.05), ("max_new_tokens", 200, 1, None, 10), ("seed", 0, 0, None, 1),
)  # fmt: skip

Turn = dict[str, str]


@dataclass(slots=True)
class Pane:
    """One model's side of the conversation."""

    target: str
    base: bool
    title: str
    turns: list[Turn] = field(default_factory=list[Turn])
    shown: Block | None = None
    said: list[Safe] = field(default_factory=list[Safe])
    tokens: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


async def build(view: View, wanted: str) -> None:
    w = view.words
    with frame(view, "chat", w("nav.chat")):
        block(head(w("nav.chat"), w("chat.sub")))
        Screen(view, [name for name in wanted.split(",") if name]).build()


class Screen:
    def __init__(self, view: View, wanted: list[str]) -> None:
        self.view = view
        self.names = _targets(view)
        first = [name for name in wanted if name in self.names] or [next(iter(self.names))]
        self.chosen: list[str] = first
        self.panes: list[Pane] = []
        self._busy, self._stop = False, False

    def build(self) -> None:
        w = self.view.words
        with ui.element("section").classes("card"):
            field_ = ui.select(self.names, value=self.chosen, multiple=True, label=w("chat.with")).props(
                "outlined dense use-chips"
            )
            field_.on_value_change(lambda e: self._choose(list(e.value)))
            with ui.expansion(w("chat.settings")).classes("fold"):
                self.system = ui.textarea(label=w("chat.system")).props("outlined dense autogrow")
                with ui.element("div").classes("fields"):
                    self.numbers = {
                        key: ui.number(
                            label=w(f"set.{key}"), value=value, min=low, max=high, step=step
                        ).props("outlined dense")
                        for key, value, low, high, step in SAMPLING
                    }
        self._proof = block(Safe(""))
        self._place = ui.element("div").classes("panes chat")
        with ui.element("div").classes("ask"):
            self.question = ui.textarea(placeholder=w("chat.ask")).props(
                f'outlined autogrow dense aria-label="{w("chat.ask")}"'
            )
            self.question.on("keydown.enter.exact.prevent", self._ask)
            self._send = button(w("chat.send"), self._ask, kind="strong")
            button(w("chat.stop"), self._halt)
            button(w("chat.new"), self._anew)
        self._choose(self.chosen)

    # --- who is asked -------------------------------------------------------------------------------------

    def _choose(self, chosen: list[str]) -> None:
        """Open a pane for each chosen model. If no base is chosen, the base of the first run gets one too."""
        self.chosen = chosen
        self.panes = []
        bases = [name for name in chosen if not _is_run(self.view, name)]
        runs = [name for name in chosen if _is_run(self.view, name)]
        if runs and not bases:
            self.panes.append(Pane(self._target(runs[0]), True, _base_of(self.view, runs[0])))
        self.panes += [Pane(self._target(name), False, self.names[name]) for name in (*bases, *runs)]
        ui.navigate.history.replace(f"/chat?with={','.join(chosen)}")
        self._lay()
        if runs:
            ui.timer(0.05, lambda: self._prove(runs[0]), once=True)

    def _target(self, name: str) -> str:
        path = self.view.state.places.run(name)
        return str(path) if path is not None else name

    def _lay(self) -> None:
        w = self.view.words
        self._place.clear()
        with self._place:
            for pane in self.panes:
                with ui.element("section").classes("card pane"):
                    block(
                        el("h2", pane.title, el("span", w("base"), cls="badge held") if pane.base else None)
                    )
                    pane.shown = block(Safe(""))
                    if not self.view.read_only:
                        with ui.element("div").classes("actions"):
                            button(w("chat.keep"), lambda pane=pane: self._keep(pane))
                            if len(self.panes) > 1:
                                button(w("chat.prefer"), guarded(lambda pane=pane: self._prefer(pane)))

    async def _prove(self, name: str) -> None:
        """Prove that the base's pane shows the base: the model with its adapter off gives the same as with an
        adapter of zeros."""
        w, state = self.view.words, self.view.state
        self._proof.show(el("p", w("chat.loading"), cls="quiet", role="status"))
        try:
            found = await state.voice.ask("load", target=self._target(name), runs=str(state.places.runs))
        except SapwoodError as error:
            self._proof.show(problem(error))
            return
        if not self.system.value:
            self.system.set_value(found["system"])
        proof = found["proof"]
        if not proof:
            self._proof.show(el("p", w("chat.loaded", base=found["base"]), cls="quiet"))
        elif proof["off"] <= EXACT < proof["on"]:
            said = w("chat.proven", base=found["base"], off=f"{proof['off']:.1e}", on=f"{proof['on']:.2f}")
            self._proof.show(el("p", el("span", "✓ ", cls="tick"), said, cls="quiet"))
        else:
            said = w("chat.unproven", off=f"{proof['off']:.1e}", on=f"{proof['on']:.1e}")
            self._proof.show(el("p", said, cls="notice"))

    # --- asking -------------------------------------------------------------------------------------------

    async def _ask(self) -> None:
        text = str(self.question.value or "").strip()
        if not text or self._busy or not self.panes:
            return
        self._busy, self._stop = True, False
        self._send.set_enabled(False)
        self.question.set_value("")
        try:
            for pane in self.panes:  # one after the other: they share the processor, and the same seed
                if not self._stop:
                    await self._answer(pane, text)
        finally:
            self._busy = False
            self._send.set_enabled(True)

    async def _answer(self, pane: Pane, text: str) -> None:
        w, state = self.view.words, self.view.state
        assert pane.shown is not None
        asked = el("div", visible(text), cls="turn asked", dir="auto")
        pane.tokens, said, drawn = [], "", 0.0
        about: dict[str, Any] = {
            "target": pane.target, "runs": str(state.places.runs), "messages": pane.turns, "text": text,
            "system": str(self.system.value or ""), "settings": self._settings(), "base": pane.base,
        }  # fmt: skip
        loop = asyncio.get_running_loop()
        stream = state.voice.stream("talk", **about)
        try:
            pane.shown.show(join([*pane.said, asked, el("p", w("wait"), cls="quiet", role="status")]))
            async for reply in stream:
                if "piece" in reply:
                    said += reply["piece"]["text"]
                    pane.tokens += reply["piece"]["tokens"]
                    if loop.time() - drawn > REDRAW:
                        drawn = loop.time()
                        pane.shown.show(join([*pane.said, asked, _turn(w, pane.tokens, None)]))
                    if self._stop:
                        break
                else:
                    ended = reply["done"]
                    pane.tokens += ended["end"]
                    pane.said += [asked, _turn(w, pane.tokens, ended)]
            if self._stop:
                pane.said += [asked, _turn(w, pane.tokens, None)]
            pane.turns += [{"role": "user", "content": text}, {"role": "assistant", "content": said}]
            pane.shown.show(join(pane.said))
        except SapwoodError as error:
            pane.shown.show(join([*pane.said, asked, problem(error)]))
        finally:
            await stream.aclose()

    def _settings(self) -> dict[str, Any]:
        found = {key: field.value for key, field in self.numbers.items() if field.value is not None}
        whole = ("top_k", "max_new_tokens", "seed")
        return {key: int(value) if key in whole else float(value) for key, value in found.items()}

    def _halt(self) -> None:
        self._stop = True

    def _anew(self) -> None:
        for pane in self.panes:
            pane.turns, pane.said = [], []
            if pane.shown is not None:
                pane.shown.show(Safe(""))

    # --- keeping ------------------------------------------------------------------------------------------

    def _keep(self, pane: Pane) -> None:
        """Let a person correct the conversation, and keep it as a row of data."""
        w = self.view.words
        if not pane.turns:
            ui.notify(w("chat.nothing"))
            return
        with ui.dialog(value=True) as dialog, ui.card().classes("keep"):
            block(join([el("h2", w("chat.keep")), el("p", w("chat.keep.how"), cls="quiet")]))
            fields = [
                ui.textarea(label=w(f"role.{turn['role']}"), value=turn["content"]).props("outlined autogrow")
                for turn in pane.turns
            ]

            def save() -> None:
                said = [str(field_.value) for field_ in fields]
                changed = [i for i, turn in enumerate(pane.turns) if said[i] != turn["content"]]
                turns = [{"role": turn["role"], "content": said[i]} for i, turn in enumerate(pane.turns)]
                path = self.view.state.actions.keep(ROWS, _row(str(self.system.value or ""), turns, changed))
                dialog.close()
                ui.notify(w("chat.kept", path=path), type="positive")

            with ui.element("div").classes("actions"):
                button(w("chat.keep"), guarded(save), kind="strong")
                button(w("cancel"), dialog.close)

    def _prefer(self, pane: Pane) -> None:
        """Keep a preference pair for each other pane: this pane's last answer is the better one."""
        w = self.view.words
        others = [other for other in self.panes if other is not pane and other.turns]
        if not pane.turns or not others:
            ui.notify(w("chat.nothing"))
            return
        path = Path()
        for other in others:
            path = self.view.state.actions.keep(
                PAIRS, _pair(str(self.system.value or ""), pane.turns, other.turns)
            )
        ui.notify(w("chat.kept", path=path), type="positive")


def _row(system: str, turns: list[Turn], changed: list[int]) -> dict[str, Any]:
    """A row of the format messages. ``changed``: indices of the turns that a person rewrote."""
    first = [{"role": "system", "content": system}] if system else []
    return {
        "messages": [*first, *turns],
        **({"changed": [i + len(first) for i in changed]} if changed else {}),
    }


def _pair(system: str, chosen: list[Turn], rejected: list[Turn]) -> dict[str, Any]:
    """A preference pair: the prompt, the better answer, and the other answer."""
    first = [{"role": "system", "content": system}] if system else []
    return {"prompt": [*first, *chosen[:-1]], "chosen": [chosen[-1]], "rejected": [rejected[-1]]}


def _turn(w: Words, tokens: list[dict[str, Any]], ended: Mapping[str, Any] | None) -> Safe:
    """An answer token by token. A token under the pointer shows its probability and the next likeliest
    tokens."""
    chips = [_chip(token) for token in tokens]
    below: Child = None
    if ended is not None:
        rate = ended["tokens"] / ended["seconds"] if ended["seconds"] else 0.0
        end = w("stopped.itself") if ended["stopped"] else w("cut.at", tokens=ended["tokens"])
        below = el("small", f"{ended['tokens']} · {rate:.1f} {w('rate')} · {end}", cls="quiet")
    return el("div", el("div", chips, cls="said probable"), below, cls="turn answered", dir="auto")


def _chip(token: Mapping[str, Any]) -> Safe:
    share = float(token["p"])
    kind = "sure" if share >= SURE else "likely" if share >= LIKELY else "open"
    others = "\n".join(f"{100 * p:5.1f} %  {visible(text)}" for text, p in token["others"])
    said = f"{100 * share:5.1f} %  {visible(token['text'])}\n{others}"
    return el("span", visible(token["text"]), cls=kind, tabindex=0 if kind != "sure" else None, data_i=said)


def _targets(view: View) -> dict[str, str]:
    """Name -> label of each run that can answer, and of each model on this disk."""
    runs = [
        path.name
        for path in reversed(run_folders(view.state.places.runs))
        if (path / ADAPTER_DIR).is_dir() or any((path / CHECKPOINTS).glob("step-*"))
    ]
    found = {name: title_of(view.state.places.runs / name) for name in runs}
    found |= {model.name: model.name for model in list_models() if model.path is not None or not runs}
    return found


def _base_of(view: View, name: str) -> str:
    """The base of a run, as its config says."""
    about = view.state.runs.get(view.state.places.runs / name).about
    return Path(str(about.get("facts", {}).get("base", ""))).name or view.words("base")


def _is_run(view: View, name: str) -> bool:
    return view.state.places.run(name) is not None
