"""What a run is, in markup, for the page, a report and a notebook: its config, its proof, its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sapwood.errors import SapwoodError
from sapwood.page.drawn import parts
from sapwood.page.drawn.markup import Child, Safe, el, join
from sapwood.page.drawn.svg import bars
from sapwood.page.drawn.texts import Words
from sapwood.run.query import read_config
from sapwood.run.store import CONFIG
from sapwood.show.figures import visible

ASSETS = Path(__file__).parents[2] / "assets" / "page"
STUDY = Path("data") / "study.json"
GROUPS = 20  # of equal rows that are named
Sample = Mapping[str, Any]


def config_of(w: Words, run: Path) -> Safe:
    """The resolved config: what was set, before what stayed at its default; and the YAML to copy."""
    try:
        values = read_config(run)
        text = (run / CONFIG).read_text(encoding="utf-8")
    except (SapwoodError, OSError) as error:
        return el("p", str(error), cls="notice")
    usual = defaults()
    ordered = dict(sorted(values.items(), key=lambda item: usual.get(item[0]) == item[1]))
    command = f"sapwood train {run / CONFIG}"
    return join(
        [
            el("p", w("config.repeat"), cls="quiet"),
            parts.code(command, w("copy")),
            parts.settings(ordered, usual),
            el("details", el("summary", "config.yaml"), parts.code(text, w("copy"))),
        ]
    )


@cache
def defaults() -> dict[str, Any]:
    """The value of each key that nobody set."""
    from sapwood.config.file import flatten, parse_config

    return flatten(parse_config({"data": {"train": ["x"]}}).model_dump(mode="json"))


def read_study(run: Path) -> dict[str, Any]:
    """What was proved of the run's data; empty if it can't be read."""
    try:
        found = json.loads((run / STUDY).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def proof_of(w: Words, run: Path) -> Safe:
    study = read_study(run)
    return study_facts(w, study) if study else el("p", w("proof.none"), cls="quiet")


def study_facts(w: Words, study: Mapping[str, Any]) -> Safe:
    """Proof and report, for a run and for a config that is being written."""
    proof, report, rows = study["proof"], study["report"], study["rows"]
    share = 100 * report["targets"] / max(1, report["tokens"])
    accepted = {code: found for code, found in proof["accepted"].items() if found["rows"]}
    checks = [_check(w, code, accepted=code in accepted) for code in proof["codes"]]
    figures: list[tuple[str, Child, Child]] = [
        (w("rows.learnt"), f"{rows['learnt']:,}", w("rows.held", n=f"{rows['held_out']:,}")),
        (w("tokens"), f"{report['tokens']:,}", w("tokens.learnt", share=f"{share:.0f}")),
        (w("longest"), f"{report['longest'][0]['tokens']:,}", str(report["longest"][0]["row"])),
        (w("proof.turns"), f"{proof['turns']:,}", w("proof.ends", stop=proof["stop_text"])),
    ]
    return join(
        [
            parts.tiles(figures),
            el("h2", w("proof.passed", n=len(proof["codes"]))),
            el("ul", checks, cls="checks"),
            el("h2", w("lengths")),
            bars(report["histogram"], report["max_length"], w("cut.line")),
            _notes(w, study),
        ]
    )


def _check(w: Words, code: str, *, accepted: bool) -> Safe:
    tick = el("span", "!" if accepted else "✓", cls="tick")
    said = el("span", el("code", code), el("small", w(f"check.{code}")))
    return el("li", tick, said, cls="accepted" if accepted else None)


def _notes(w: Words, study: Mapping[str, Any]) -> Safe:
    report = study["report"]
    found: list[Child] = []
    for key, sign in (("duplicates", " = "), ("contradictions", " ≠ ")):
        if study[key]["rows"]:
            groups = [el("li", el("code", sign.join(group[:6]))) for group in study[key]["groups"][:GROUPS]]
            found.append(
                el("details", el("summary", w(f"note.{key}", n=f"{study[key]['rows']:,}")), el("ul", groups))
            )
    for key in ("dropped", "cut"):
        if report[key]:
            named = ", ".join(report[f"{key}_rows"])
            found.append(el("details", el("summary", w(f"note.{key}", n=f"{report[key]:,}")), el("p", named)))
    found += [el("p", visible(str(note))) for note in study["rows"]["notes"]]
    return join([el("h2", w("notes")), *found]) if found else Safe("")


def compared(
    w: Words, samples: list[dict[str, Any]], step: int, scores: Mapping[int, Mapping[str, float]]
) -> Safe:
    """Each prompt of an evaluation: the answers before training and at this step, what is new marked, and the
    data's."""
    before = {_key(sample): sample for sample in samples if sample.get("step") == 0}
    now = [sample for sample in samples if sample.get("step") == step]
    told = scores.get(step, {})
    line = " · ".join(f"{name} {value:.1f}" for name, value in told.items())
    cards = [_card(w, before.get(_key(sample)), sample, step) for sample in now]
    return join([el("p", line, cls="quiet") if line else None, cards])


def _key(sample: Sample) -> tuple[Any, Any]:
    return sample.get("index"), sample.get("prompt")


def _card(w: Words, first: Sample | None, now: Sample, step: int) -> Safe:
    said = visible(str(now.get("answer", "")))
    before = visible(str(first.get("answer", ""))) if first is not None else ""
    panes: list[Safe] = []
    if first is not None:
        panes.append(parts.answer(w, w("before"), before, first, "base"))
    if step > 0 or first is None:
        title = w("answers.adapter", step=step)
        panes.append(parts.answer(w, title, parts.differing(before, said), now, "adapter"))
    reference = str(now.get("reference", ""))
    if reference:
        panes.append(parts.answer(w, w("answers.reference"), visible(reference), None, "reference"))
    return el(
        "section",
        el("h2", visible(str(now.get("prompt", ""))), cls="prompt", dir="auto"),
        el("small", str(now.get("row", "")), cls="quiet"),
        el("div", panes, cls="panes"),
        cls="card",
    )
