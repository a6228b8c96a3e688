"""The config while it grows, and the lines of the report: what was read, at which line, and what sapwood
does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sapwood.migrate.script.values import dotted, is_plain

State = Literal["taken", "instead", "unread", "default"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting of the file. key: sapwood's, empty if it has none; value and ours: as text.

    taken: the setting is in our config. instead: sapwood doesn't need it; `en` and `zh` say why. unread: it
    isn't taken over. default: the file is silent, and its tool's own default was written out. matters: what
    is trained changes.
    """

    line: int
    theirs: str
    value: str
    state: State
    key: str = ""
    ours: str = ""
    en: str = ""
    zh: str = ""
    matters: bool = False


@dataclass(slots=True)
class Draft:
    """settings: ``section.key`` -> value. micro, accumulation, devices make train.batch_size in the end."""

    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    entries: list[Entry] = field(default_factory=list[Entry])
    remarks: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    micro: int | None = None
    accumulation: int | None = None
    whole: int | None = None
    devices: int = 1
    ratio: Any = None
    flat: bool = False  # the schedule is transformers' "constant", which has no warm-up
    values: dict[str, Any] = field(default_factory=dict[str, Any])  # of the file, as they stand
    folder: Path = Path()
    lines: dict[str, int] = field(default_factory=dict[str, int])
    template: str | None = None  # text of a .jinja file to be written
    unknown: set[str] = field(default_factory=set[str])  # keys that are given, but whose values aren't known
    resists: list[tuple[int, str, str, str]] = field(default_factory=list[tuple[int, str, str, str]])

    def take(
        self, key: str, value: Any, line: int, theirs: str, shown: Any, en: str = "", zh: str = ""
    ) -> None:
        self.settings[key] = value
        self.lines[key] = line
        self.entries.append(Entry(line, theirs, show(shown), "taken", key, show(value), en, zh))

    def note(self, key: str, line: int, theirs: str, shown: Any, en: str, zh: str) -> None:
        """Note a setting that is understood, and that another line of the config answers."""
        self.entries.append(
            Entry(line, theirs, show(shown), "taken", key, show(self.settings.get(key, "")), en, zh)
        )

    def instead(self, line: int, theirs: str, shown: Any, en: str, zh: str, *, matters: bool = False) -> None:
        self.entries.append(Entry(line, theirs, show(shown), "instead", "", "", en, zh, matters))

    def unread(self, line: int, theirs: str, shown: Any, en: str, zh: str, *, matters: bool = True) -> None:
        self.entries.append(Entry(line, theirs, show(shown), "unread", "", "", en, zh, matters))

    def default(self, key: str, value: Any, theirs: str, en: str, zh: str) -> None:
        decided = key == "train.epochs" and "train.max_steps" in self.settings
        if key not in self.settings and key not in self.unknown and not decided:
            self.settings[key] = value
            self.entries.append(Entry(0, theirs, show(value), "default", key, show(value), en, zh))

    def forget(self, key: str) -> None:
        """Take back what was set for a key before the deciding setting was seen."""
        self.settings.pop(key, None)
        self.entries = [entry for entry in self.entries if entry.key != key]

    def tidy(self) -> None:
        """Remove entries that are there twice."""
        self.entries = list(dict.fromkeys(self.entries))

    def finish(self) -> None:
        """Make the settings that depend on all others."""
        self.settle()
        if self.flat and self.settings.get("train.warmup") != 0:
            said = (
                "constant has no warm-up there; constant_with_warmup has",
                "原工具的 constant 没有预热；constant_with_warmup 才有",
            )
            self.take("train.warmup", 0, self.lines.get("train.schedule", 0), "constant", "", *said)

    def settle(self) -> None:
        """The batch size of one step: micro * accumulation * devices."""
        if self.micro is not None:
            self.settings.setdefault("train.micro_batch", self.micro)
        size = self.whole or (self.micro or 1) * (self.accumulation or 1) * self.devices
        if "train.batch_size" in self.unknown and self.whole is None:
            self.settings.pop("train.batch_size", None)
        elif self.micro or self.accumulation or self.whole:
            self.settings["train.batch_size"] = size
        if self.settings.get("lora.method") == "full" and self.settings.get("base.storage") != "fp32":
            self.take(
                "base.storage",
                "fp32",
                self.lines.get("lora.method", 0),
                "",
                "",
                "the base's own weights are trained: fp32 keeps small changes",
                "训练基座自身的权重：fp32 才能保留小的变化",
            )
        if "train.max_steps" in self.settings:
            self.settings.pop("train.epochs", None)


def show(value: Any) -> str:
    """A value as a person reads it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "True", False: "False", None: "None"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {show(v)}" for k, v in value.items()) + "}"
    return str(value) if is_plain(value) else dotted(value)
