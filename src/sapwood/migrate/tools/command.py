"""Command lines of other tools: the options, each with its line, and the configs that are named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapwood.migrate.script.values import Unknown
from sapwood.migrate.shell.launch import launch_of
from sapwood.migrate.shell.pages import Pages
from sapwood.migrate.shell.words import Started, Word, typed

_TOOLS = (
    (re.compile(r"\bllamafactory-cli\s+train\b|\bllamafactory\.launcher\b|\bsrc/train(?:_\w+)?\.py\b"),
    "llamafactory"),
    (re.compile(r"\bswift\s+(?:sft|pt|rlhf)\b|\bswift/cli/(?:sft|pt|rlhf)\.py\b"), "swift"),
    (re.compile(r"\bmlx_lm(?:\.|\s+)lora\b"), "mlx"),
    (re.compile(r"\btune\s+run\b"), "torchtune"),
    (re.compile(r"\baxolotl\s+train\b|\baxolotl\.cli\.train\b"), "axolotl"),
    (re.compile(r"\bunsloth-cli\.py\b|\bunsloth\s+train\b"), "unsloth"),
)  # fmt: skip
_LAUNCHED = ("nproc_per_node", "nnodes", "num_processes", "master_port", "node_rank", "master_addr")


@dataclass(slots=True)
class Command:
    """values: option -> (value, line). configs: files that it names, with the line.

    folder: where it starts.
    """

    tool: str
    line: int
    folder: Path
    values: dict[str, tuple[Any, int]] = field(default_factory=dict[str, tuple[Any, int]])
    configs: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    devices: int = 1


def command_of(started: Started, pages: Pages) -> Command | None:
    """None if no known tool is started."""
    tool = next((name for pattern, name in _TOOLS if pattern.search(started.text)), None)
    if tool is None or started.words[0].text in ("echo", "which", "cat", "ls"):
        return None
    command = Command(tool, started.line, started.folder, devices=_devices(started, pages))
    words = list(started.words)
    start = next((i for i in range(len(words)) if _begins(tool, words, i)), 0)
    _options(command, words[start + 1 :])
    for known in _LAUNCHED:
        command.values.pop(known, None)
    return command


def _devices(started: Started, pages: Pages) -> int:
    """The number of devices, as the environment, the launcher or the tool's own launcher says it."""
    each = started.environment.get("NPROC_PER_NODE")
    if each is not None and each.text.isdigit():
        return max(1, int(each.text))
    launch = launch_of(started, pages)
    if launch is not None and launch.devices > 1:
        return launch.devices
    told = re.search(r"--(?:nproc[_-]per[_-]node|num_processes)[= ](\d{1,4})\b", started.text)
    return max(1, int(told[1])) if told is not None else 1


def _begins(tool: str, words: Sequence[Word], at: int) -> bool:
    """Where the tool's own options begin."""
    pair = " ".join(word.text for word in words[max(at - 1, 0) : at + 1])
    pattern = next(p for p, name in _TOOLS if name == tool)
    return bool(pattern.search(pair)) or (tool == "axolotl" and words[at].text == "axolotl.cli.train")


def _options(command: Command, words: Sequence[Word]) -> None:
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word.text.startswith("--"):
            name, equals, value = word.text[2:].partition("=")
            values = [Word(value, word.line, word.known)] if equals else []
            while not equals and at < len(words) and not words[at].text.startswith("--"):
                values.append(words[at])
                at += 1
            _set(command, name.replace("-", "_"), values, word.line)
        elif re.match(r"^[\w.]+=", word.text):
            _pair(command, word)
        elif word.text.endswith((".yaml", ".yml", ".json")):
            command.configs.append((word.text, word.line))


def _pair(command: Command, word: Word) -> None:
    """``key=value``"""
    name, _, value = word.text.partition("=")
    command.values[name] = (_value(Word(value, word.line, word.known)), word.line)


def _set(command: Command, name: str, values: list[Word], line: int) -> None:
    if name == "config" and values:
        command.configs.append((values[0].text, line))
        _options(command, values[1:])  # torchtune: key=value after it
        return
    pairs = [v for v in values if re.match(r"^[\w.]+=", v.text)] if command.tool == "torchtune" else []
    read = [_value(word) for word in values if word not in pairs]
    command.values[name] = (True if not read else read[0] if len(read) == 1 else read, line)
    for word in pairs:
        _pair(command, word)


def _value(word: Word) -> Any:
    return typed(word.text) if word.known else Unknown(word.text, word.line)
