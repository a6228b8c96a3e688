"""A config that is being written on the page: the keys that were set, as YAML and as a command line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sapwood.config.file import flatten, inline_yaml
from sapwood.config.sections import RunConfig, Section
from sapwood.errors import ConfigError, brief
from sapwood.page.places import Places

MAIN = (
    "name", "train.epochs", "train.lr", "train.batch_size", "lora.method", "lora.rank", "pack.length",
    "data.eval",
)  # fmt: skip
PATHS = ("data.train", "data.eval", "base.model")


def to_yaml(settings: Mapping[str, Any]) -> str:
    """Only what was set, by section, in the order of the config."""
    order = [name for name in RunConfig.model_fields if name != "version"]
    out: list[str] = []
    for section in order:
        if section in settings:
            out.append(f"{section}: {inline_yaml(settings[section])}")
        inner = {
            key.partition(".")[2]: value for key, value in settings.items() if key.startswith(f"{section}.")
        }
        if inner:
            out += [f"{section}:", *(f"  {key}: {inline_yaml(value)}" for key, value in inner.items())]
    return "\n".join(out) + "\n"


def from_yaml(text: str) -> dict[str, Any]:
    """The keys of a YAML text. Raises ConfigError if the text is no YAML, or has no sections."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        tree = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError("not valid YAML", "config", brief(error)) from None
    if not isinstance(tree, dict):
        raise ConfigError("the config has no sections", "config")
    open_ = {key: value for key, value in tree.items() if value is not None}
    whole = {key: value for key, value in flatten(open_).items() if key not in ("version",)}
    for key in [*whole]:  # these two keys hold mappings of their own
        for mapping in ("data.columns", "data.roles"):
            if key.startswith(f"{mapping}."):
                whole.setdefault(mapping, {})[key.removeprefix(f"{mapping}.")] = whole.pop(key)
    return whole


def to_value(text: str) -> Any:
    """What a person typed into a field, as the YAML value that it spells; None for nothing."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not text.strip():
        return None
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError):
        return text


def command(settings: Mapping[str, Any], file: str = "my.yaml") -> str:
    """The same run from a terminal."""
    data, model = settings.get("data.train", "FILE"), settings.get("base.model")
    first = data[0] if isinstance(data, list | tuple) and data else data
    made = ["sapwood", "init", file, "--data", str(first), *(["--model", str(model)] if model else [])]
    told = {key: value for key, value in settings.items() if key != "base.model" and value != first}
    words = ["sapwood", "train", file, *(f"{key}={inline_yaml(value)}" for key, value in told.items())]
    return " \\\n  && ".join(shlex.join(part) for part in (made, words))


def refuse_elsewhere(settings: Mapping[str, Any], places: Places) -> None:
    """Raise ConfigError for a path outside the folders of the page."""
    for key in PATHS:
        value = settings.get(key)
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, str) and one:
                places.allowed(one, key)
    if "save.dir" in settings and Path(str(settings["save.dir"])).resolve() != places.runs:
        raise ConfigError(
            "the page keeps all its runs in one folder", "save.dir", str(places.runs), "leave the key out"
        )
    if str(settings.get("template.name", "")).endswith(".jinja"):
        places.allowed(str(settings["template.name"]), "template.name")


def near(path: Path) -> str:
    """A path as a person would write it from here."""
    try:
        relative = os.path.relpath(path)
    except ValueError:
        return str(path)
    return str(path) if relative.startswith("..") else relative


def sections() -> dict[str, dict[str, Any]]:
    """The fields of each section, by name."""
    found: dict[str, dict[str, Any]] = {}
    for name, field in RunConfig.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found[name] = dict(kind.model_fields)
    return found


def tree_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Key paths as the tree that a config is."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return tree
