"""The config as a person would write it: only settings that were brought, each with the line that it is
from."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sapwood.config.file import field_of, inline_yaml
from sapwood.config.sections import RunConfig
from sapwood.migrate.draft import Draft, Entry
from sapwood.migrate.read import Migration

SECTIONS = ("base", "data", "template", "pack", "lora", "train", "eval", "save", "track")


def config_yaml(found: Migration, *, zh: bool, template: str = "", out: str = "sapwood.yaml") -> str:
    """template: the path of a written .jinja file, if there is one; out: of the config itself."""
    draft = found.draft
    name = Path(found.source.path).name
    head = (
        f"来自 {name}；每个键后面是它的出处。" if zh else f"from {name}; behind each key, where it is from."
    )
    text = [f"# {head}", f"#   sapwood check {out}", f"#   sapwood train {out}"]
    if "name" in draft.settings:
        text += [_line(found, "name", draft.settings["name"], zh=zh, indent="")]
    for section in SECTIONS:
        keys = [key for key in draft.settings if key.startswith(f"{section}.")]
        keys.sort(key=lambda key: list(_fields(section)).index(key.partition(".")[2]))
        if keys or section == "data":
            text += ["", f"{section}:"]
        if section == "data" and "data.train" not in draft.settings:
            said = "没有说明是哪些数据" if zh else "which rows it was isn't said"
            text.append(f"  train: data.jsonl  # {said}")
        for key in keys:
            value: Any = template if draft.settings[key] == "@template" else draft.settings[key]
            text.append(_line(found, key, value, zh=zh, indent="  "))
    return "\n".join(text) + "\n"


def _fields(section: str) -> dict[str, Any]:
    annotation: Any = RunConfig.model_fields[section].annotation
    return annotation.model_fields


def _line(found: Migration, key: str, value: Any, *, zh: bool, indent: str) -> str:
    entries = [entry for entry in found.draft.entries if entry.key == key]
    comment = "; ".join(dict.fromkeys(_origin(found, entry, zh=zh) for entry in entries[-3:]))
    return f"{indent}{key.rpartition('.')[2]}: {inline_yaml(value)}" + (f"  # {comment}" if comment else "")


def _origin(found: Migration, entry: Entry, *, zh: bool) -> str:
    place = found.source.place(entry.line, zh=zh)
    said = entry.zh if zh else entry.en
    theirs = (
        f"{entry.theirs}={entry.value}"
        if entry.theirs and entry.value and len(entry.value) < 40
        else entry.theirs
    )
    if entry.state == "default":
        return " ".join(part for part in (entry.theirs, said) if part)
    text = ", ".join(part for part in (theirs, place) if part)
    return re.sub(r"\s+", " ", text)


def validated(draft: Draft) -> None:
    """Settings that sapwood refuses become lines of the report: its bounds are narrower than theirs."""
    from sapwood.config.file import parse_config
    from sapwood.errors import ConfigError

    for key in list(draft.settings):
        if draft.settings[key] == "@template":
            continue
        try:
            parse_config(_tree({"data.train": ["data.jsonl"], key: draft.settings[key]}))
        except ConfigError as error:
            value, line = draft.settings.pop(key), draft.lines.get(key, 0)
            why = error.problems[0].why or error.problems[0].what
            draft.unread(line, key, value, f"refused here: {why}", f"这里不接受：{why}")
    assert all(field_of(key.split(".")) is not None for key in draft.settings)


def _tree(settings: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return tree


def find_files(found: Migration) -> bool:
    """Whether the rows are at hand. A relative path is looked up in the folders of the file that was
    brought."""
    draft, folders = found.draft, found.folders
    for key in ("data.train", "data.eval", "base.model"):
        value: Any = draft.settings.get(key)
        if isinstance(value, list):
            draft.settings[key] = [_found(str(one), folders) for one in value]
        elif isinstance(value, str):
            draft.settings[key] = _found(value, folders)
    rows: Any = draft.settings.get("data.train", [])
    return bool(rows) and all(Path(one).exists() for one in rows)


def _found(path: str, folders: Sequence[Path]) -> str:
    if ":" in path or not path or Path(path).exists():
        return path
    beside = next((folder / path for folder in folders if (folder / path).exists()), None)
    return os.path.normpath(beside) if beside is not None else path
