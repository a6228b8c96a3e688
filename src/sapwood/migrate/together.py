"""A page, a notebook or a shell script, and the programs that it starts."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sapwood.migrate.options.given import Given
from sapwood.migrate.script.source import Block, Source
from sapwood.migrate.script.walk import walk
from sapwood.migrate.shell.grammar import seeds, shell_blocks
from sapwood.migrate.shell.launch import Launch, launch_of
from sapwood.migrate.shell.pages import Pages
from sapwood.migrate.shell.walk import Note, Shell
from sapwood.migrate.shell.words import Names, Started, Word
from sapwood.migrate.tools.command import Command, command_of

TRL = Path("trl sft")  # a command of trl's own, which a script of ours stands for
_TRAINS = re.compile(r"train|tun|sft|lora")


@dataclass(slots=True)
class Begun:
    """One command: of a script, whose file is `path` if it is here; of a tool; or of both."""

    line: int
    text: str
    launch: Launch | None
    path: Path | None
    command: Command | None


@dataclass(slots=True)
class Commands:
    """begun: in the order of the text. notes: what isn't followed."""

    pages: Pages
    begun: list[Begun]
    notes: list[Note]


def read_commands(path: Path, source: Source) -> Commands:
    pages = Pages(path)
    pages.add(path, source.lines, source.labels)
    blocks = shell_blocks(source, path.suffix)
    if not any(block.text.strip() for block in blocks):
        return Commands(pages, [], [])
    names = Names(path, path.parent)
    if path.suffix == ".ipynb":
        script = walk(source.trees, Given(pages))
        names.values = {name: [Word(text, 0)] for name, text in seeds(script.names).items()}
    shell = Shell(pages, names)
    shell.read(blocks)
    begun = [made for one in shell.started if (made := _begun(one, pages)) is not None]
    return Commands(pages, begun, shell.notes)


def _begun(started: Started, pages: Pages) -> Begun | None:
    launch, command = launch_of(started, pages), command_of(started, pages)
    at = next((i for i, word in enumerate(started.words) if word.text == "trl"), None)
    if at is not None and [word.text for word in started.words[at + 1 : at + 2]] == ["sft"]:
        words = list(started.words[at + 2 :])
        launch = Launch(
            Word("trl sft", started.line), False, words, started.line, started.folder, started.environment
        )
        return Begun(started.line, started.text, launch, TRL, None)
    if launch is None and command is None:
        return None
    path = launch.find(pages.folders()) if launch is not None else None
    return Begun(started.line, started.text, launch, path, command)


def built_in(path: Path) -> Source:
    """The script that stands for a command."""
    text = files("sapwood.migrate").joinpath("tables", "trl_sft.txt").read_text("utf-8")
    lines = text.splitlines()
    return Source(str(path), lines, [f"line {i + 1}" for i in range(len(lines))], trees=[ast.parse(text)])


def own_command(commands: Commands) -> Begun | None:
    """The command that starts a page's own Python: a script without a file, preferably one named after
    training."""
    found = [
        one
        for one in reversed(commands.begun)
        if one.launch and one.path is None and one.launch.script.text.endswith(".py")
    ]
    named = [one for one in found if one.launch and _TRAINS.search(one.launch.script.text.lower())]
    return next(iter((*named, *found)), None)


def given_by(begun: Begun | None, pages: Pages) -> Given:
    """The options that a command gives a script; none without a command."""
    launch = begun.launch if begun is not None else None
    if begun is None or launch is None:
        return Given(pages, [pages.path.parent], pages.folders())
    beside = [begun.path.parent] if begun.path is not None else [pages.path.parent]
    return Given(
        pages,
        [*beside, launch.folder],
        [launch.folder, *beside, *pages.folders()],
        launch.words,
        begun.line,
        launch.script.text,
        dict(launch.environment),
        launch.devices,
    )


def joined_source(own: Source, path: Path, pages: Pages, page: Source) -> Source:
    """The script of `path`, with the lines of everything that is read together with it."""
    before = pages.add(path, own.lines, own.labels)

    def moved(blocks: list[Block]) -> list[Block]:
        return [Block(block.first + before, block.text, block.language) for block in blocks]

    return Source(
        str(pages.path),
        pages.lines,
        pages.labels,
        moved(own.code),
        [*page.shown, *moved(own.shown)],
        [line + before for line in own.prose],
        [ast.increment_lineno(tree, before) for tree in own.trees],
        [(line + before, why) for line, why in own.skipped],
    )
