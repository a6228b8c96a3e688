"""The sample answers of a run over time: those before training, beside those at an evaluation."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from sapwood.page.drawn import parts
from sapwood.page.drawn.markup import Safe
from sapwood.page.drawn.shown import compared
from sapwood.page.live import LiveRun, Seen
from sapwood.page.shell import View, block


def build(view: View, live: LiveRun) -> Callable[[Seen], None]:
    """Draw a slider over the evaluations. Below the slider stand the answers of the chosen evaluation."""
    w = view.words
    with ui.element("div").classes("toolbar scrub"):
        label = ui.label("").classes("scrub-label")
        slider = ui.slider(min=0, max=0, step=1, value=0).props(
            f'label markers snap aria-label="{w("evaluation")}"'
        )
    shown = block(Safe(""))
    newest = [True]

    def steps() -> list[int]:
        return sorted({int(sample["step"]) for sample in live.samples()})

    def draw() -> None:
        found = steps()
        if not found:
            shown.show(parts.empty(w("answers.none"), w("answers.none.how")))
            return
        at = min(int(slider.value or 0), len(found) - 1)
        label.set_text(w("answers.at", step=found[at], n=at + 1, of=len(found)))
        shown.show(compared(w, live.samples(), found[at], dict(live.scores)))

    def chosen() -> None:
        newest[0] = int(slider.value or 0) >= len(steps()) - 1
        draw()

    def refresh(seen: Seen) -> None:
        last = max(0, len(steps()) - 1)
        slider.props(f"max={max(1, last)}")
        if newest[0]:
            slider.set_value(last)
        draw()

    slider.on_value_change(chosen)
    return refresh
