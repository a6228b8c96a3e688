"""A file of any kind to what it means here: settings, the report's lines, faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sapwood.errors import DataError
from sapwood.migrate.calls.environment import read_environment
from sapwood.migrate.calls.facts import Facts, gather
from sapwood.migrate.calls.settings import read_settings
from sapwood.migrate.calls.text import read_rows
from sapwood.migrate.draft import Draft, show
from sapwood.migrate.options.given import Given
from sapwood.migrate.rules import Case, Fault, find_faults
from sapwood.migrate.script.found import Script
from sapwood.migrate.script.source import Source, read_source, read_text
from sapwood.migrate.script.walk import walk
from sapwood.migrate.shell.grammar import SHELLS
from sapwood.migrate.shell.pages import Pages
from sapwood.migrate.together import (
    TRL,
    Begun,
    Commands,
    built_in,
    given_by,
    joined_source,
    own_command,
    read_commands,
)
from sapwood.migrate.tools.configs import read_tool, tool_of, tool_of_command
from sapwood.migrate.tools.folder import read_folder

PYTHON = {".py", ".pyw"}
CODE = {*PYTHON, ".ipynb", ".md", ".txt", ".markdown", ".rst"}
KNOWN = "LLaMA-Factory, Axolotl, ms-swift, mlx-lm, torchtune, Unsloth"


@dataclass(frozen=True, slots=True)
class Unfollowed:
    """A part that couldn't be followed. line: 0 if it has none."""

    line: int
    text: str
    en: str
    zh: str


@dataclass(frozen=True, slots=True)
class Migration:
    """kind: "script", or the tool and the version of it whose keys are known.

    folders: where files may lie.
    """

    source: Source
    kind: str
    draft: Draft
    faults: list[Fault]
    unfollowed: list[Unfollowed] = field(default_factory=list[Unfollowed])
    folders: Sequence[Path] = ()


def bring(path: Path) -> Migration:
    """Read what somebody brings. Raises DataError if the file can't be read, or if nothing in it trains."""
    try:
        return _brought(path)
    except RecursionError:
        why = "its values are nested deeper than can be followed"
        raise DataError(
            "this file isn't understood", str(path), why, "import the script that trains alone"
        ) from None


def _brought(path: Path) -> Migration:
    if path.is_dir() or path.suffix == ".bin" or path.name == "adapter_config.json":
        draft, source, kind = read_folder(path)
        return _of_tool(draft, source, kind, [path if path.is_dir() else path.parent])
    if path.suffix in CODE or path.suffix in SHELLS:
        return _of_text(path)
    tool = tool_of(path)
    if tool is not None:
        return _of_tool(read_tool(tool), tool.source, tool.label, [path.parent])
    why = f"it is no Python, no notebook, and no config or command line of {KNOWN}"
    raise DataError("this file isn't understood", str(path), why, "import the script that trains")


def _of_text(path: Path) -> Migration:
    """A page by its own Python, if that trains; else by its last command that starts a training."""
    source = read_source(path) if path.suffix in CODE else _plain(path)
    commands = read_commands(path, source) if path.suffix not in PYTHON else _no_commands(path, source)
    found = _of_script(source, own_command(commands), commands) if source.trees else None
    if found is not None and (found.trains or not commands.begun):
        return found.migration
    for begun in reversed(commands.begun):
        started = _of_begun(begun, source, commands)
        if started is not None:
            return started
    if found is not None:
        return found.migration
    raise _nothing(path, source, commands)


def _plain(path: Path) -> Source:
    lines = read_text(path).splitlines()
    return Source(str(path), lines, [f"line {i + 1}" for i in range(len(lines))])


def _no_commands(path: Path, source: Source) -> Commands:
    pages = Pages(path)
    pages.add(path, source.lines, source.labels)
    return Commands(pages, [], [])


def _of_begun(begun: Begun, page: Source, commands: Commands) -> Migration | None:
    """The script that a command starts, or the tool; None if neither trains."""
    if begun.path is not None:
        own = built_in(begun.path) if begun.path == TRL else read_source(begun.path)
        source = joined_source(own, begun.path, commands.pages, page)
        found = _of_script(source, begun, commands)
        if found is not None and found.trains:
            return found.migration
    if begun.command is None:
        return None
    tool = tool_of_command(begun.command, commands.pages)
    notes = [*_notes(commands, begun), *_others(commands, begun)]
    folders = [begun.command.folder, *commands.pages.folders()]
    return _of_tool(read_tool(tool), tool.source, tool.label, folders, notes)


def _of_tool(
    draft: Draft, source: Source, kind: str, folders: Sequence[Path], notes: Sequence[Unfollowed] = ()
) -> Migration:
    draft.finish()
    case = Case(Facts(source, Script()), draft, None)
    return Migration(source, kind, draft, find_faults(case), list(notes), folders)


@dataclass(frozen=True, slots=True)
class _Read:
    migration: Migration
    trains: bool


def _of_script(source: Source, begun: Begun | None, commands: Commands) -> _Read | None:
    """None if nothing in it trains or loads a model."""
    given = given_by(begun, commands.pages)
    script = walk(source.trees, given)
    facts, draft = gather(source, script), Draft(devices=given.devices)
    trains = bool(facts.adapter or facts.arguments or facts.trainer or facts.optimizer)
    if not (facts.base or trains or facts.formatting):
        return None
    read_settings(draft, facts)
    read_environment(draft, given)
    learning = read_rows(draft, facts)
    draft.finish()
    _tell_options(draft, given)
    if begun is not None and begun.path is not None and given.words and not given.asked:
        said = "the script never looks at its options", "脚本从不读取命令行选项"
        draft.unread(given.line, " ".join(word.text for word in given.words), "", *said)
    draft.tidy()
    faults = find_faults(Case(facts, draft, learning))
    begun = begun if begun is not None and (given.asked or begun.path is not None) else None
    notes = [*_unfollowed(source, script, draft), *_notes(commands, begun), *_others(commands, begun)]
    notes.sort(key=lambda one: one.line)
    kind = (
        "script"
        if begun is None
        else f"script {given.script}, as it is started on {source.place(begun.line)}"
    )
    trains = trains or facts.formatting is not None
    return _Read(Migration(source, kind, draft, faults, notes, given.folders), trains)


def _tell_options(draft: Draft, given: Given) -> None:
    """Options that aren't in the list of settings yet."""
    named = {(entry.line, entry.value) for entry in draft.entries}
    for told in given.told:
        if not told.known:
            draft.unread(told.line, told.name, told.value, told.en, told.zh)
        elif (told.line, show(told.value)) not in named:
            draft.instead(told.line, told.name, told.value, told.en, told.zh)


def _nothing(path: Path, source: Source, commands: Commands) -> DataError:
    started = [one.launch.script.text for one in commands.begun if one.launch is not None]
    missing = [
        one.launch.script.text for one in commands.begun if one.launch is not None and one.path is None
    ]
    if missing or started:
        name = (missing or started)[-1]
        there = "a script that isn't here" if missing else "a script that trains nothing"
        why = f"it starts {name}, {there}, and holds no settings besides"
        mend = f"import {name}, or put {name} beside this file" if missing else f"import {name}"
        return DataError("this file holds only options of a script", str(path), why, mend)
    if path.suffix in SHELLS:
        why = f"it starts no Python script, and no command of {KNOWN}"
        return DataError("this file isn't understood", str(path), why, "import the script that trains")
    why = "no model is loaded, no adapter made, no Trainer called" + _hint(source)
    return DataError(
        "nothing in it trains", source.path, why, "import the file that calls from_pretrained and Trainer"
    )


def _hint(source: Source) -> str:
    line = source.skipped[0][0] if source.skipped else 0
    return f"; {source.place(line)}: {source.skipped[0][1]}" if line else ""


def _notes(commands: Commands, begun: Begun | None) -> list[Unfollowed]:
    """Notes on parts of a shell that couldn't be followed, as far as they concern the command that is
    read."""
    if begun is None:
        return []
    launched = begun.launch.notes if begun.launch is not None else []
    return [Unfollowed(*note) for note in (*commands.notes, *launched)]


def _others(commands: Commands, begun: Begun | None) -> list[Unfollowed]:
    said = (
        "another command that starts a program: import that command by itself",
        "另一条启动命令：请单独导入",
    )
    return [
        Unfollowed(one.line, one.text[:200], *said)
        for one in commands.begun
        if one is not begun and (one.path is not None or one.command is not None)
    ]


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
    return out
