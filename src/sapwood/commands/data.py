"""``sapwood check`` and ``sapwood show``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.config.file import flatten, inline_yaml, load_config, origins
from sapwood.config.sections import DataConfig, RunConfig
from sapwood.errors import DataError, row_count
from sapwood.machine.doing import doing
from sapwood.prepare.language import unread_language
from sapwood.run.files import to_json, write_atomic
from sapwood.train.schedule import plan_steps

if TYPE_CHECKING:
    from sapwood.plan.choose import MemoryChoice
    from sapwood.plan.time import Estimate
    from sapwood.prepare.study import Study

EXAMPLES = 3  # groups of rows that a note names; `--json` has more
BARS = 40  # characters of the longest bar


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known before the first step: the config as it will run, the study with the trial's result, the
    plan of memory, the estimate of time, the settings that would cost less, and what is to be known of the
    device."""

    config: RunConfig
    resolved: RunConfig
    study: Study
    memory: MemoryChoice
    expected: Estimate
    advice: Sequence[str]
    device: Sequence[str]

    def to_json(self, places: Mapping[str, str]) -> dict[str, Any]:
        """``places``: where each key was set."""
        values = flatten(self.config.model_dump(mode="json"))
        known = {key: {"value": v, "from": places.get(key, "default")} for key, v in values.items()}
        found = {"estimate": self.expected.to_json(), "memory": self.memory.to_json()}
        return {**self.study.facts, **found, "config": known, "advice": self.advice, "device": self.device}


def checked(config: RunConfig) -> Checked:
    """Raises as `study_config` does."""
    from sapwood.prepare.study import study_config

    study = study_config(config)
    with doing("importing torch"):  # and PEFT, after the data: a fault in the data is told first
        from sapwood.compute.lacking import device_notes
        from sapwood.machine.device import device_for
        from sapwood.plan.choose import choose_plan, settled
        from sapwood.plan.costs import costly
        from sapwood.plan.time import estimate
        from sapwood.train.trial import tried

    study, config = tried(study, config)
    device = device_for(config.base.device_map)
    memory = choose_plan(study, config, device)
    resolved = settled(config, memory, device)
    expected = estimate(study, resolved, device)
    notes = device_notes(device, study.spec.hf_config)
    advice = costly(study, config, memory, device, expected)
    return Checked(config, resolved, study, memory, expected, advice, notes)


def check_config(path: Path | None, overrides: list[str], *, as_json: bool) -> None:
    found, places = checked(load_config(path, overrides)), origins(path, overrides)
    if as_json:
        print(to_json(found.to_json(places)), end="")
        return
    from sapwood.plan.choose import settings_line
    from sapwood.show.tables import hanging

    values = flatten(found.config.model_dump(mode="json"))
    lines = [
        *_choices(found.config, values, places),
        *study_lines(found.study, found.config),
        *found.expected.lines(),
        settings_line(found.resolved),
        *found.memory.lines(),
        *(f"device     {text}" for text in found.device),
        *(f"advice     {text}" for text in found.advice),
    ]
    print(hanging("\n".join(lines)))


def _choices(config: RunConfig, values: Mapping[str, Any], places: Mapping[str, str]) -> list[str]:
    """The keys that were set to something else than their default, and where."""
    usual = flatten(RunConfig(data=DataConfig(train=config.data.train)).model_dump(mode="json"))
    usual.pop("data.train")
    told = [(key, value) for key, value in values.items() if key in places and usual.get(key) != value]
    lines = [f"set        {key}: {inline_yaml(value)}  ({places[key]})" for key, value in told]
    same = sum(key in places for key in values) - len(told)
    return [*lines, f"set        {same} more, as they are by default"] if same else lines


def study_lines(study: Study, config: RunConfig) -> list[str]:
    """What was found and proved, for a person."""
    rows, report, proof = study.facts["rows"], study.facts["report"], study.facts["proof"]
    steps = plan_steps(len(study.data.train), config.train)
    share = 100 * report["targets"] / report["tokens"]
    longest = ", ".join(f"{one['row']} ({one['tokens']:,})" for one in report["longest"][:EXAMPLES])
    lines = [
        f"base       {study.spec.source}, fingerprint {study.spec.fingerprint[:12]}",
        f"rows       {rows['learnt']:,} to learn from, {rows['held_out']:,} held out",
        f"tokens     {report['tokens']:,}, of which {report['targets']:,} are learnt ({share:.0f} %); "
        f"{report['characters_per_token']:.2f} characters a token",
        *_under("lengths", [*_bars(report["histogram"], report["max_length"])]),
        f"longest    {longest}",
        f"proof      {len(proof['codes'])} checks passed on {proof['turns']:,} trained turns; "
        f"each ends on {proof['stop_text']}",
        *trial_lines(proof),
        f"steps      {steps.total_steps:,} of {config.train.batch_size} examples, "
        f"{steps.steps_per_epoch:,} an epoch",
    ]
    for key, word, sign in (
        ("duplicates", "exact duplicates", " = "),
        ("contradictions", "other answers to the same prompt", " ≠ "),
    ):
        if study.facts[key]["rows"]:
            found = study.facts[key]
            groups = [sign.join(group[:4]) for group in found["groups"][:EXAMPLES]]
            lines += _under("note", [f"{found['rows']:,} {word}, for instance", *groups])
    if report["dropped"]:
        dropped, first = row_count(report["dropped"]), report["dropped_rows"][0]
        lines.append(f"note       {dropped} dropped as too long, first {first}")
    if report["cut"]:
        lines.append(
            f"note       {row_count(report['cut'])} cut to {config.pack.length:,} tokens, first "
            f"{report['cut_rows'][0]}; {report['cut_answers']:,} inside an answer, without a stop token"
        )
    if report["control_rows"]:
        spelt = f"a control token is spelt in {row_count(report['control_rows'])}"
        lines.append(f"note       {spelt}; it stays plain text (template.meant says which tokens are meant)")
    if (unread := unread_language(study.data.train, study.spec.tokenizer, config.base.model)) is not None:
        lines.append(f"note       {unread}")
    if (prompt := study.renderer.default_system) is not None:
        lines.append(f"note       rows without a system prompt learn under the template's own: {prompt!r}")
    lines += [
        f"accepted   {code}: {row_count(found['rows'])}, first {found['first']}"
        for code, found in proof["accepted"].items()
        if found["rows"]
    ]
    return [
        *lines,
        *(f"note       {text}" for text in (*rows["notes"], *study.spec.notes, *untrained(study, config))),
    ]


def untrained(study: Study, config: RunConfig) -> list[str]:
    """Sentences about what isn't trained, or isn't packed, although one might expect it."""
    from sapwood.adapter.places.experts import named_stacks
    from sapwood.adapter.places.targets import left_out, resolve_targets
    from sapwood.base.inspect import skeleton

    if not config.lora.on_linears or config.lora.method == "ia3":
        return []
    network = skeleton(study.spec)
    experts = named_stacks(network, config.lora.targets)
    rest = left_out(network, resolve_targets(network, config.lora.targets), experts)
    lines = [
        f"not trained: {text}" for text in rest if config.lora.targets == "all-linear" or "experts" in text
    ]
    if experts and config.lora.dropout:
        lines.append("experts are trained without dropout; lora.dropout is for the linears beside them")
    if any("experts" in text for text in rest) and config.base.storage in ("nf4", "fp4", "int8"):
        lines.append(f"{config.base.storage} leaves the experts dense: only linears are packed")
    return lines


def trial_lines(proof: Mapping[str, Any]) -> list[str]:
    """What `train.trial` found, if it was asked."""
    trial = proof.get("trial")
    if trial is None:
        return []
    if trial["alone"]:
        why = (f"a pack isn't exact for this model: {trial['why']}",) if trial["why"] else ()
        lines = (
            "each row has a forward pass of its own; beginnings that rows share cost each time",
            *why,
            "a tiny random copy gave the loss and gradient of plain PEFT, and its adapter opened again",
        )
        return _under("trial", lines)
    over = f", each longer than the window of {trial['window']}" if trial["window"] else ""
    pack = f"a pack of {row_count(trial['rows'])}{over}"
    return [
        f"trial      a tiny random copy of the model was trained on {pack}:",
        "           loss and gradient are those of the same rows one by one, and its adapter opened again",
    ]


def _under(word: str, texts: Sequence[str]) -> list[str]:
    """Lines, of which the first begins with the word."""
    return [f"{word if i == 0 else '':<10} {text}" for i, text in enumerate(texts)]


def _bars(histogram: Sequence[Sequence[int]], cut: int) -> Iterator[str]:
    """A line for each bin, and one where the longest accepted length is."""
    most = max(count for _, count in histogram)
    width = max(len(f"{bound:,}") for bound in (cut, *(bound for bound, _ in histogram)))
    line = f"{cut:>{width},} ┄┄┄ the longest that is accepted"
    drawn = False
    for bound, count in histogram:
        if bound > cut and not drawn:
            yield line
            drawn = True
        bar = "█" * (BARS * count // most) + "▏" * (0 < BARS * count < most)
        yield f"{bound:>{width},} {bar}{' ' * bool(bar)}{count:,}"
    if not drawn:
        yield line


def show_tokens(
    path: Path | None, overrides: list[str], *, row: int | None, count: int, worst: bool, html: Path | None
) -> None:
    from sapwood.prepare.study import study_config
    from sapwood.show.manner import colours
    from sapwood.show.mask import show, show_html, worst_first

    study = study_config(load_config(path, overrides))
    examples = [*study.data.train, *study.data.eval]
    titles: list[str] = []
    if row is not None:
        examples = [example for example in examples if example.row.index == row]
        if not examples:
            raise DataError(f"no row {row}", "--row", "rows count from 0, and dropped rows aren't shown")
    elif worst:
        ranked = worst_first(examples, study.renderer, count)
        titles, examples = [title for title, _ in ranked], [example for _, example in ranked]
    else:
        examples = sorted(examples, key=lambda e: (e.row.source, e.row.index))[:count]
    if html is not None:
        write_atomic(html, show_html(examples, study.renderer))
        print(f"wrote {html}")
        return
    color = colours(sys.stdout)
    for i, example in enumerate(examples):
        title = f"{titles[i]}: {example.row}\n" if titles else ""
        print(f"{title}{show(example, study.renderer, color=color)}", end="\n\n")
