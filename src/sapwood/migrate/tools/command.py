"""Command lines of other tools in a shell script or a fence: options with their lines. Nothing is run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import Any

_TOOLS = (
    (re.compile(r"\bllamafactory-cli\s+train\b|\bllamafactory\.launcher\b|\bsrc/train(?:_\w+)?\.py\b"),
    "llamafactory"),
    (re.compile(r"\bswift\s+(?:sft|pt|rlhf)\b|\bswift/cli/(?:sft|pt|rlhf)\.py\b"), "swift"),
    (re.compile(r"\bmlx_lm(?:\.|\s+)lora\b"), "mlx"),
    (re.compile(r"\btune\s+run\b"), "torchtune"),
    (re.compile(r"\baxolotl\s+train\b|\baxolotl\.cli\.train\b"), "axolotl"),
    (re.compile(r"\bunsloth-cli\.py\b|\bunsloth\s+train\b"), "unsloth"),
)  # fmt: skip
_ASSIGN = re.compile(
    r"^\s*(?:export\s+|set\s+)?([A-Za-z_]\w*)=(?:'([^']*)'|\"([^\"]*)\"|([^\s;]*))\s*;?\s*(?:#.*)?$"
)
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)|%(\w+)%")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_DEVICES = re.compile(r"(?:NPROC_PER_NODE=|--nproc[_-]per[_-]node[= ]|--num_processes[= ])(\d+)")


@dataclass(slots=True)
class Command:
    """values: option -> (value, line). configs: files that it names, with the line."""

    tool: str
    values: dict[str, tuple[Any, int]] = field(default_factory=dict[str, tuple[Any, int]])
    configs: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    devices: int = 1


def commands(text: str) -> list[Command]:
    """Every command of a known tool, in order."""
    found: list[Command] = []
    variables: dict[str, str] = {}
    for lines in _statements(text):
        whole = " ".join(line for line, _ in lines)
        match = _ASSIGN.match(whole)
        if match is not None:
            variables[match[1]] = _filled(match[2] or match[3] or match[4] or "", variables)
            continue
        tool = next((name for pattern, name in _TOOLS if pattern.search(whole)), None)
        if tool is not None:
            found.append(_command(tool, lines, variables, whole))
    return found


def _statements(text: str) -> list[list[tuple[str, int]]]:
    """Lines that a backslash (or ^, or a backtick) joins, each with its number; comments are left out."""
    out: list[list[tuple[str, int]]] = []
    going = False
    for at, line in enumerate(text.splitlines(), 1):
        bare = re.sub(r"(?:^|\s)#.*$", "", line).rstrip()
        more = bool(re.search(r"(?:\\|\^|`)$", bare))
        body = bare.rstrip("\\^`").rstrip() if more else bare
        body = body.lstrip("!$> ") if not going else body
        if going:
            out[-1].append((body, at))
        else:
            out.append([(body, at)])
        going = more
    return out


def _filled(text: str, variables: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda m: variables.get(m[1] or m[2] or m[3], m[0]), text)


def _command(tool: str, lines: list[tuple[str, int]], variables: dict[str, str], whole: str) -> Command:
    command = Command(tool)
    devices = _DEVICES.search(_filled(whole, variables))
    command.devices = int(devices[1]) if devices and 0 < int(devices[1]) <= 4096 else 1
    words = [(word, at) for line, at in lines for word in _words(_filled(line, variables))]
    start = next((i for i in range(len(words)) if _begins(tool, words, i)), 0)
    _options(command, words[start + 1 :])
    for known in ("nproc_per_node", "nproc-per-node", "num_processes"):
        command.values.pop(known, None)
    return command


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, posix=True)
    except ValueError:
        return line.split()


def _begins(tool: str, words: list[tuple[str, int]], at: int) -> bool:
    """Where the tool's own options begin."""
    pair = " ".join(word for word, _ in words[max(at - 1, 0) : at + 1])
    pattern = next(p for p, name in _TOOLS if name == tool)
    return bool(pattern.search(pair)) or (tool == "axolotl" and words[at][0] == "axolotl.cli.train")


def _options(command: Command, words: list[tuple[str, int]]) -> None:
    at = 0
    while at < len(words):
        word, line = words[at]
        at += 1
        if word in ("&&", "|", ";", "&", "2>&1", ">"):
            return
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            values = [value] if equals else []
            while not equals and at < len(words) and not _option(words[at][0]):
                values.append(words[at][0])
                at += 1
            _set(command, name.replace("-", "_"), values, line)
        elif "=" in word and re.match(r"^[\w.]+=", word):
            name, _, value = word.partition("=")
            command.values[name] = (_typed(value), line)
        elif word.endswith((".yaml", ".yml", ".json")):
            command.configs.append((word, line))


def _option(word: str) -> bool:
    return word.startswith("--") or word in ("&&", "|", ";", "&", ">", "2>&1")


def _set(command: Command, name: str, values: list[str], line: int) -> None:
    if name == "config" and values:
        command.configs.append((values[0], line))
        rest = values[1:]  # torchtune: key=value after it
        _options(command, [(word, line) for word in rest])
        return
    extra = [v for v in values if re.match(r"^[\w.]+=", v)] if command.tool == "torchtune" else []
    typed = [_typed(v) for v in values]
    command.values[name] = (True if not typed else typed[0] if len(typed) == 1 else typed, line)
    for word in extra:
        key, _, value = word.partition("=")
        command.values[key] = (_typed(value), line)


def _typed(text: str) -> Any:
    low = text.lower()
    if low in ("true", "false"):
        return low == "true"
    if low in ("none", "null", ""):
        return None
    if re.fullmatch(r"[-+]?\d{1,18}", text):
        return int(text)
    if text.startswith("[") and text.endswith("]"):
        return [_typed(part.strip().strip("'\"")) for part in text[1:-1].split(",") if part.strip()]
    return float(text) if _NUMBER.fullmatch(text) else text
