"""A file of any kind to what it means here: settings, the report's lines, faults."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from sapwood.errors import DataError
from sapwood.migrate.calls.facts import Facts, gather
from sapwood.migrate.calls.settings import read_settings
from sapwood.migrate.calls.text import read_rows
from sapwood.migrate.draft import Draft
from sapwood.migrate.rules import Case, Fault, find_faults
from sapwood.migrate.script.found import Script
from sapwood.migrate.script.source import Source, read_source, read_text
from sapwood.migrate.script.walk import walk
from sapwood.migrate.tools.configs import SHELLS, read_tool, tool_of
from sapwood.migrate.tools.folder import read_folder

CODE = {".py", ".pyw", ".ipynb", ".md", ".txt", ".markdown", ".rst"}


@dataclass(frozen=True, slots=True)
class Unfollowed:
    """A part that couldn't be followed. line: 0 where it has none."""

    line: int
    text: str
    en: str
    zh: str


@dataclass(frozen=True, slots=True)
class Migration:
    """kind: "script", or the tool and the version of it whose keys are known."""

    source: Source
    kind: str
    draft: Draft
    faults: list[Fault]
    unfollowed: list[Unfollowed] = field(default_factory=list[Unfollowed])


def bring(path: Path) -> Migration:
    """Raises DataError where it can't be read, or is nothing that trains."""
    try:
        return _brought(path)
    except RecursionError:
        why = "its values lie in each other deeper than can be followed"
        raise DataError("this file isn't understood", str(path), why, "bring the part that trains") from None


def _brought(path: Path) -> Migration:
    if path.is_dir() or path.suffix == ".bin" or path.name == "adapter_config.json":
        draft, source, kind = read_folder(path)
        return _of_tool(draft, source, kind)
    source = read_source(path) if path.suffix in CODE else None
    if source is not None and (found := _of_script(source)) is not None:
        return found
    tool = tool_of(path)
    if tool is not None:
        draft, source = read_tool(path, tool)
        return _of_tool(draft, source, tool.label)
    if source is not None:
        why = "no model is loaded, no adapter made, no Trainer called" + _hint(source)
        mend = "bring the file that calls from_pretrained and Trainer"
        raise DataError("nothing in it trains", source.path, why, mend)
    if (script := _started(path)) is not None:
        raise DataError(
            "the options of a script",
            str(path),
            f"it starts {script}, and holds no settings besides",
            f"bring {script}",
        )
    known = "LLaMA-Factory, Axolotl, ms-swift, mlx-lm, torchtune, Unsloth"
    why = f"it is no Python, no notebook, and no config or command line of {known}"
    raise DataError("this file isn't understood", str(path), why, "bring the script that trains")


def _of_tool(draft: Draft, source: Source, kind: str) -> Migration:
    draft.settle()
    case = Case(Facts(source, Script()), draft, None)
    return Migration(source, kind, draft, find_faults(case))


def _of_script(source: Source) -> Migration | None:
    """None where nothing in it trains."""
    script = walk(source.trees)
    facts, draft = gather(source, script), Draft()
    if not (facts.base or facts.adapter or facts.arguments or facts.trainer or facts.formatting):
        return None
    read_settings(draft, facts)
    learning = read_rows(draft, facts)
    draft.settle()
    draft.tidy()
    faults = find_faults(Case(facts, draft, learning))
    return Migration(source, "script", draft, faults, _unfollowed(source, script, draft))


def _started(path: Path) -> str | None:
    """The script that a shell script starts."""
    text = read_text(path) if path.suffix in SHELLS else ""
    match = re.search(r"\b(?:python3?|torchrun|launch|deepspeed)\b[^\n]*?\s([\w./-]+\.py)\b", text)
    return match[1] if match is not None else None


def _hint(source: Source) -> str:
    line = source.skipped[0][0] if source.skipped else 0
    return f"; {source.place(line)}: {source.skipped[0][1]}" if line else ""


def _unfollowed(source: Source, script: Script, draft: Draft) -> list[Unfollowed]:
    out = [Unfollowed(line, text, en, zh) for line, text, en, zh in draft.resists]
    out += [
        Unfollowed(line, source.text(line).strip(), why, f"这不是 Python：{why}")
        for line, why in source.skipped
    ]
    supposed = ("it isn't known before it runs: read as true", "运行之前不知道结果：按真处理")
    out += [Unfollowed(line, text, *supposed) for text, line in dict.fromkeys(script.guessed)]
    for text, answer, line in dict.fromkeys(script.optional):
        said = f"an option decides: its default gives {answer}", f"由命令行选项决定：默认值给出 {answer}"
        out.append(Unfollowed(line, text, *said))
    return sorted(out, key=lambda one: one.line)
