"""What stands beside a script: the command that starts it, and the config files that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapwood.migrate.script.source import read_text
from sapwood.migrate.script.values import Unknown
from sapwood.migrate.shell.pages import Pages, find
from sapwood.migrate.shell.words import Word
from sapwood.migrate.yamls import YAMLS, yaml_values

MAX_BYTES = 1 << 20  # of a config file; rows are larger
FOLLOWED = ("the script's own option: followed to where it is used", "脚本自己的选项：已跟踪到使用它的地方")
UNDECLARED = ("the script has no such option", "脚本没有这个选项")


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one option of the command, or of one key of its config."""

    line: int
    name: str
    value: Any
    known: bool
    en: str
    zh: str


@dataclass(slots=True)
class Given:
    """words: the command's, behind the script; None if no command is known.

    folders: where names are looked up. homes: where modules are. told: each option that was looked at.
    """

    pages: Pages
    homes: Sequence[Path] = ()
    folders: Sequence[Path] = ()
    words: list[Word] | None = None
    line: int = 0
    script: str = ""
    environment: dict[str, Word] = field(default_factory=dict[str, Word])
    devices: int = 1
    told: list[Told] = field(default_factory=list[Told])
    asked: bool = False  # whether the script looks at its command at all

    def value(self, word: Word) -> Any:
        return word.text if word.known else Unknown(word.text, word.line)

    def tell(self, line: int, name: str, value: Any, *, declared: bool) -> None:
        known = declared and not isinstance(value, Unknown)
        said = FOLLOWED if known else UNDECLARED
        if declared and not known:
            said = ("its value isn't known before it runs", "运行之前不知道它的值")
        self.told.append(Told(line, name, value, known, *said))

    def variable(self, name: str) -> Any:
        """Of the environment, as the command sets it; None if it doesn't."""
        if name == "WORLD_SIZE" and self.devices > 1:
            return str(self.devices)
        if name in ("RANK", "LOCAL_RANK") and self.devices > 1:
            return "0"
        word = self.environment.get(name)
        return None if word is None else self.value(word)

    def config(self, name: str) -> tuple[dict[str, Any], dict[str, int]] | None:
        """A mapping in a YAML or JSON file, and the line of each key by its path; None if there is none."""
        path = find(name, self.folders) if Path(name).suffix in YAMLS else None
        if path is None or path.stat().st_size > MAX_BYTES:
            return None
        text = read_text(path)
        found = yaml_values(text, path)
        if not found:
            return None
        before = self.pages.add(path, text.splitlines())
        values = {key: value for key, (value, _) in found.items() if not key.startswith("\0")}
        return values, {key.removeprefix("\0"): before + line for key, (_, line) in found.items()}
