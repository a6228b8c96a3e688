"""Tables of keys, one for each tool: the tool's key, ours, a remark. No key of the tool's version is
missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from sapwood.migrate.convert import CONVERT
from sapwood.migrate.converter import Convert
from sapwood.migrate.draft import Draft
from sapwood.migrate.script.values import Call, is_plain
from sapwood.migrate.tools.datasets import CONVERT_DATA
from sapwood.migrate.tools.values import CONVERT_TOOL

CONVERTERS: dict[str, Convert] = {**CONVERT, **CONVERT_TOOL, **CONVERT_DATA}


@dataclass(frozen=True, slots=True)
class Instead:
    """Keys without a setting in sapwood: what sapwood does instead, and whether the result depends on it."""

    en: str
    zh: str
    matters: bool


@dataclass(frozen=True, slots=True)
class Table:
    """version: of the tool, as it was read. keys: theirs -> ours, or ``@name`` of a converter."""

    version: str
    keys: Mapping[str, str]
    remarks: Mapping[str, tuple[str, str]]
    instead: Mapping[str, Instead]
    defaults: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        return key in self.keys or key in self.instead


# Keys that a converter decides: the tool's default for them must not stand in for a value that isn't known.
_DECIDES = {
    "@warmup_steps": "train.warmup", "@warmup_ratio": "train.warmup", "@epochs": "train.epochs",
    "@max_steps": "train.max_steps train.epochs", "@targets": "lora.targets", "@length": "pack.length",
    "@held_out": "data.eval", "@checkpointing": "train.gradient_checkpointing",
    "@double": "base.double_quant", "@micro": "train.batch_size", "@accumulation": "train.batch_size",
    "@whole": "train.batch_size",
}  # fmt: skip


@cache
def table(name: str) -> Table:
    """`hf:lora` is the part `lora` of the file `hf`."""
    from ruamel.yaml import YAML

    file, _, part = name.partition(":")
    text = files("sapwood.migrate").joinpath("tables", f"{file}.yaml").read_text(encoding="utf-8")
    tree: Any = YAML(typ="safe", pure=True).load(text)
    found = tree[part] if part else tree
    keys: dict[str, str] = {}
    remarks: dict[str, tuple[str, str]] = {}
    for ours, theirs in (found.get("keys") or {}).items():
        keys.update(dict.fromkeys(theirs.split(), ours))
    for key, both in (found.get("remarks") or {}).items():
        remarks[key] = (both[0], both[1])
    instead = {
        key: Instead(group["en"], group["zh"], bool(group.get("matters")))
        for group in found.get("instead") or ()
        for key in group["keys"].split()
    }
    return Table(tree["version"], keys, remarks, instead, found.get("defaults") or {})


def apply(draft: Draft, name: str, theirs: str, value: Any, line: int, shown_as: str = "") -> None:
    """One setting of another tool, by the table `name`. A key that isn't in the table is listed as
    unknown."""
    known, label = table(name), shown_as or theirs
    if theirs in known.keys:
        before = len(draft.entries)
        _taken(draft, known, theirs, value, line, label)
        if any(entry.state == "unread" for entry in draft.entries[before:]):
            ours = known.keys[theirs]
            draft.unknown.update(_DECIDES.get(ours, "").split() if ours.startswith("@") else [ours])
    elif theirs in known.instead:
        group = known.instead[theirs]
        idle = value in (None, False, "", 0) or value == [] or value == {}
        said = (
            ("it was off; sapwood has no such setting", "原来就没有启用，这里也没有")
            if idle and group.matters
            else (group.en, group.zh)
        )
        draft.instead(line, label, value, *said, matters=group.matters and not idle)
    else:
        draft.unread(
            line,
            label,
            value,
            f"unknown to {known.version}: not taken over",
            f"{known.version} 没有这个键：未采用",
        )


def apply_all(draft: Draft, name: str, call: Call | None, *, skip: Iterable[str] = ()) -> None:
    """Each named argument of a call, by the table `name`."""
    if call is None:
        return
    for theirs, value in call.kwargs.items():
        if theirs == "**":
            what = "which keys it brings isn't known", "不知道它带来哪些键"
            draft.unread(call.lines.get("**", call.line), "**", value, *what)
        elif theirs not in skip:
            apply(draft, name, theirs, value, call.lines.get(theirs, call.line))


def _taken(draft: Draft, known: Table, theirs: str, value: Any, line: int, label: str) -> None:
    ours = known.keys[theirs]
    en, zh = known.remarks.get(theirs, ("", ""))
    if ours.startswith("@"):
        CONVERTERS[ours[1:]](draft, label, value, line, en, zh)
    elif value is None:
        draft.note(
            ours, line, label, value, en or "not set: the default here", zh or "未设置：用这里的默认值"
        )
    elif is_plain(value):
        draft.take(ours, value, line, label, value, en, zh)
    else:
        draft.unread(
            line,
            label,
            value,
            f"its value isn't known before it runs: set {ours}",
            f"运行之前不知道它的值：请设置 {ours}",
        )


def defaults(draft: Draft, name: str) -> None:
    """What the tool does if the file is silent, written out if sapwood's own default is another."""
    for key, value in table(name).defaults.items():
        draft.default(key, value, "", "the other tool's default", "原工具的默认值")
