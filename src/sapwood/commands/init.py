"""``sapwood init``: a first look at a file, and a config for it."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from sapwood.base.builtin import BUILTINS
from sapwood.base.propose import propose_model
from sapwood.commands.line.options import USUAL
from sapwood.commands.model import pull_line
from sapwood.config.file import inline_yaml, load_config, template_yaml
from sapwood.config.sections import PackConfig, RunConfig
from sapwood.data.problems import excerpt, printable
from sapwood.data.script import is_english, script_of
from sapwood.data.survey import Survey, survey
from sapwood.errors import StorageError, row_count
from sapwood.machine.memory import available_memory
from sapwood.machine.network import answers, hub_address
from sapwood.run.files import write_atomic

CHARACTERS = 3.2  # a Latin letter's share of a token, with what a template adds: a first guess
PACK = 64  # tokens: lengths of packs are multiples


def write_config(
    path: Path, overrides: list[str], *, data: str, model: str | None, every: bool, force: bool
) -> None:
    if path.exists() and not force:
        raise StorageError(
            "file exists", str(path), "it may hold your settings", "name another, or add --force"
        )
    config = load_config(None, [f"data.train={inline_yaml([data])}", *overrides])
    found = survey(config.data)
    named = model or (config.base.model if "model" in config.base.model_fields_set else None)
    hub = named is None and not is_english(found.text) and answers(hub_address())
    proposed = propose_model(found.text, available_memory(), hub=hub)
    base = config.base.model_copy(update={"model": named or proposed.model})
    length = _pack_length(found, config)
    pack = config.pack.model_copy(update={"length": length})
    config = config.model_copy(update={"data": found.data, "base": base, "pack": pack})
    write_atomic(path, template_yaml(config) if every else _short(config, found))
    told = f"{base.model}" if named else f"{base.model} ({proposed.why})"
    print("\n".join([*survey_lines(found), f"model      {told}"]))
    name = "" if path == USUAL else f" {path}"
    steps = [*_terms(base.model), f"sapwood check{name}", f"sapwood train{name}"]
    print("\n  ".join([f"wrote {path}; next:", *steps]))


def _terms(model: str) -> list[str]:
    """The step before all others, if the model has terms that nobody has accepted here yet."""
    found = BUILTINS.get(model.removeprefix("builtin:")) if model.startswith("builtin:") else None
    return [pull_line(model)] if found is not None and found.terms and not found.pulled else []


def survey_lines(found: Survey) -> list[str]:
    """What was found, for a person."""
    shapes = ", ".join(sorted({*found.formats.values()}))
    lengths = found.lengths
    language = script_of(found.text).languages
    lines = [
        f"rows       {found.rows:,} to learn from, of the shape {shapes}; {found.turns:,} turns",
        f"lengths    median {median(lengths):,.0f} characters, {max(lengths):,} at most; {language}",
    ]
    if found.guess is not None:
        sure = (
            "by their names"
            if found.guess.sure
            else f"a guess; the other way round: {found.guess.turned().words()}"
        )
        lines.append(f"columns    {found.guess.words()} ({sure})")
    if found.first is not None:
        turns = found.first.messages
        lines += [f"first row  {turn.role}: {excerpt(turn.text, 70)}" for turn in turns[:3]]
    if found.blank:
        lines.append(
            f"blank      {row_count(found.blank)} without a prompt or an answer: left out (data.empty: drop)"
        )
    if found.bad:
        bad = f"{row_count(found.bad)} that can't be read, first {found.first_bad}"
        lines.append(f"bad        {bad}: `check` says more")
    return [*lines, *(f"note       {note}" for note in found.notes)]


def _pack_length(found: Survey, config: RunConfig) -> int:
    """The config's own, or more if the longest row may need more."""
    letters = found.text[:20_000]
    script = script_of(letters)
    share = len(script.letters.findall(letters)) / max(1, len(letters))
    a_token = CHARACTERS / (1 + share * (script.weight - 1))
    needed = max(found.lengths) / a_token
    if needed <= config.pack.length * 0.8 or "length" in config.pack.model_fields_set:
        return config.pack.length
    return min(4096, -(-int(needed * 1.25) // PACK) * PACK)


def _short(config: RunConfig, found: Survey) -> str:
    """The keys that a person may want to see first; the others have their defaults."""
    data = {key: getattr(config.data, key) for key in _set(config)}
    notes = {"columns": "which column is what" if found.guess is not None else ""}
    notes["empty"] = f"{row_count(found.blank)} without a prompt or an answer"
    lines = [
        f"# {row_count(found.rows)} of {printable(config.data.train[0])}. `init --all` writes every key.",
        "data:",
    ]
    lines += [_line(key, value, notes.get(key, "")) for key, value in data.items()]
    lines += ["base:", _line("model", config.base.model)]
    if config.pack.length != PackConfig().length:
        lines += ["pack:", _line("length", config.pack.length, "tokens; the longest row may need them")]
    long = "epochs" if config.train.max_steps is None else "max_steps"
    amount = config.train.max_steps or config.train.passes
    lines += ["train:", _line(long, amount), _line("lr", config.train.lr)]
    lines += ["lora:", _line("rank", config.lora.rank)]
    return "\n".join(lines) + "\n"


def _set(config: RunConfig) -> list[str]:
    """The keys of data that aren't as by default."""
    usual = type(config.data)(train=config.data.train)
    return [
        key
        for key in type(config.data).model_fields
        if key == "train" or getattr(config.data, key) != getattr(usual, key)
    ]


def _line(key: str, value: Any, note: str = "") -> str:
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    return f"  {key}: {inline_yaml(value)}{f'  # {note}' if note else ''}"
