"""What a started program is: a Python script or module with its options, on so many devices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sapwood.migrate.script.source import read_text
from sapwood.migrate.shell.pages import Pages, find
from sapwood.migrate.shell.words import Started, Word
from sapwood.migrate.yamls import yaml_values

_PYTHON = re.compile(r"(?:.*/)?(?:python|pypy)[\d.]*(?:\.exe)?")
_LAUNCHERS = {"torchrun", "deepspeed", "accelerate", "accelerate-launch"}
_MODULES = {
    "torch.distributed.launch", "torch.distributed.run", "accelerate.commands.launch",
    "deepspeed.launcher.runner",
}  # fmt: skip
_NO_TRAINING = {"pip", "venv", "ipykernel", "jupyter", "http.server", "json.tool", "nltk", "spacy", "build"}
_WITH_VALUE = {"-W", "-X", "--with", "--env-file", "-p", "--python"}
_EACH = ("nproc_per_node", "num_gpus", "num_processes", "nproc")
UNSAID = ("how many devices it is isn't known: read as one", "不知道有几个设备：按一个处理")


@dataclass(slots=True)
class Launch:
    """script: as it is written; a module's name if `module`. words: the options that it is given.

    devices: that compute one step together. notes: (line, text, en, zh) of what isn't followed.
    """

    script: Word
    module: bool
    words: list[Word]
    line: int
    folder: Path
    environment: dict[str, Word]
    devices: int = 1
    notes: list[tuple[int, str, str, str]] = field(default_factory=list[tuple[int, str, str, str]])

    def find(self, folders: Sequence[Path]) -> Path | None:
        """The script's file."""
        names = [self.script.text]
        if self.module:
            path = self.script.text.replace(".", "/")
            names = [f"{path}.py", f"src/{path}.py", f"{path}/__main__.py", f"src/{path}/__main__.py"]
        elif Path(self.script.text).is_absolute():
            names.append(Path(self.script.text).name)
        found = [find(name, [self.folder, *folders]) for name in names]
        return next((path for path in found if path is not None), None)


def launch_of(started: Started, pages: Pages) -> Launch | None:
    """What a command starts; None if it starts no Python script or module."""
    words = list(started.words)
    at = next((i for i, word in enumerate(words) if _is_start(word.text)), None)
    if at is None:
        return _bare(started)
    launcher = not _PYTHON.fullmatch(words[at].text)
    place, module = _target(words, at + 1, launcher=launcher)
    if place is None:
        return None
    if module and words[place].text in _MODULES:
        launcher, at = True, place
        place, module = _target(words, at + 1, launcher=True)
        if place is None:
            return None
    if module and words[place].text.partition(" ")[0] in _NO_TRAINING:
        return None
    made = Launch(words[place], module, words[place + 1 :], started.line, started.folder, started.environment)
    if launcher:
        _devices(made, words[at], words[at + 1 : place], pages)
    return made


def _is_start(word: str) -> bool:
    return bool(_PYTHON.fullmatch(word)) or word.rpartition("/")[2] in _LAUNCHERS


def _bare(started: Started) -> Launch | None:
    """``./train.py``, ``uv run train.py``"""
    words = list(started.words)
    place = next((i for i, word in enumerate(words) if word.text.endswith(".py")), None)
    if place is None or (
        place and words[0].text not in ("uv", "poetry", "srun", "nohup", "rye", "pdm", "pixi")
    ):
        return None
    rest = words[place + 1 :]
    return Launch(words[place], False, rest, started.line, started.folder, started.environment)


def _target(words: Sequence[Word], at: int, *, launcher: bool) -> tuple[int | None, bool]:
    """The place of the script or the module among the words, and which of the two it is."""
    while at < len(words):
        word = words[at].text
        if word in ("-m", "--module"):
            return (at + 1, True) if at + 1 < len(words) else (None, False)
        if launcher:
            if word.endswith(".py"):
                return at, False
        elif word in ("-c", "-"):
            return None, False
        elif word in _WITH_VALUE:
            at += 1
        elif not word.startswith("-"):
            return at, False
        at += 1
    return None, False


def _devices(made: Launch, launcher: Word, options: Sequence[Word], pages: Pages) -> None:
    given = _named(options)
    value = next((given[name] for name in _EACH if name in given), None)
    nodes = given.get("nnodes", given.get("num_nodes"))
    several = int(nodes.text) if nodes is not None and nodes.text.isdigit() else 1
    if value is not None and value.text.isdigit():
        made.devices = max(1, int(value.text)) * (several if "num_processes" not in given else 1)
    elif "config_file" in given:
        _from_config(made, given["config_file"], pages)
    elif "include" in given:
        made.devices = max(1, len(given["include"].text.partition(":")[2].split(",")))
    elif _visible(made) > 1 and launcher.text != "torchrun":
        made.devices = _visible(made)
    elif value is not None or (launcher.text.endswith("deepspeed") and not _visible(made)):
        made.notes.append((made.line, value.text if value is not None else launcher.text, *UNSAID))


def _named(options: Sequence[Word]) -> dict[str, Word]:
    out: dict[str, Word] = {}
    for at, word in enumerate(options):
        if not word.text.startswith("--"):
            continue
        name, equals, value = word.text[2:].partition("=")
        after = options[at + 1] if at + 1 < len(options) else Word("", word.line)
        out[name.replace("-", "_")] = Word(value, word.line, word.known) if equals else after
    return out


def _visible(made: Launch) -> int:
    """GPUs that the environment names; 0 if it names none."""
    visible = made.environment.get("CUDA_VISIBLE_DEVICES")
    return len([part for part in visible.text.split(",") if part.strip()]) if visible and visible.known else 0


def _from_config(made: Launch, name: Word, pages: Pages) -> None:
    """accelerate's own file."""
    path = find(name.text, [made.folder, *pages.folders()])
    count = yaml_values(read_text(path), path).get("num_processes") if path is not None else None
    if count is not None and isinstance(count[0], int) and count[0] > 0:
        made.devices = count[0]
    else:
        made.notes.append((name.line, name.text, *UNSAID))
