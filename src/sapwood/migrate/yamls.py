"""YAML and JSON as other tools read them, with the line of each key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sapwood.errors import DataError, brief

YAMLS = {".yaml", ".yml", ".json"}
MAX_DEPTH = 16
MAX_VALUES = 100_000  # an alias of aliases grows beyond all measure


def yaml_values(text: str, path: Path) -> dict[str, tuple[Any, int]]:
    """Top keys, each with its value and line; lines of deeper keys stand under ``\\0path``. JSON is YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml: Any = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = True
    try:
        node = yaml.compose(text.replace("\t", "  "))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise DataError("not valid YAML", where, brief(error.problem or error)) from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise DataError("not valid YAML", str(path), brief(error)) from None
    if node is None or node.id != "mapping":
        return {}
    read = _Reader(path)
    values = read.mapping(node, "", 0)
    top = {key: (value, read.lines[f"\0{key}"][1]) for key, value in values.items()}
    return {**read.lines, **top}


class _Reader:
    """lines: of each key, under ``\0path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, tuple[Any, int]] = {}
        self.count = 0

    def mapping(self, node: Any, above: str, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value)
            if name == "<<" and value.id == "mapping":  # a merged value never wins over one that is written
                made = {**self.mapping(value, above, depth + 1), **made}
                continue
            self.lines[f"\0{above}{name}"] = (None, key.start_mark.line + 1)
            made[name] = self.value(value, f"{above}{name}.", depth + 1)
        return made

    def value(self, node: Any, above: str, depth: int) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise DataError(
                "the file is too large", str(self.path), f"it holds more than {MAX_VALUES:,} values"
            )
        if depth > MAX_DEPTH:
            return None
        if node.id == "mapping":
            return self.mapping(node, above, depth)
        if node.id == "sequence":
            return [self.value(one, above, depth + 1) for one in node.value]
        return str(node.value) if node.style in ("'", '"', "|", ">") else scalar(str(node.value))


def scalar(text: str) -> Any:
    """A bare word as the tools read it: by YAML 1.1, except that 1e-4 is a number, because all of them
    convert it."""
    low = text.strip().lower()
    if low in ("", "~", "null", "none"):
        return None
    if low in ("true", "yes", "on", "false", "no", "off"):
        return low in ("true", "yes", "on")
    if re.fullmatch(r"[-+]?\d{1,18}", low):
        return int(low)
    if re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", low):
        return float(low)
    return text
