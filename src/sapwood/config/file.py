"""A config as text: YAML 1.2 plus ``section.key=value``, with the line of everything; unknown keys fail with
the nearest name.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sapwood.config.faults import field_below, help_of
from sapwood.config.sections import FORMAT, RunConfig, Section
from sapwood.config.yaml_words import explain, explain_scalar
from sapwood.errors import ConfigError, brief

MAX_BYTES = 1_000_000  # a config beyond this is not a config
COMMAND_LINE = "command line"
DATA_SUFFIXES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".parquet", ".txt", ".pkl")
ALTERNATIVES = ("train.epochs", "train.max_steps")  # one on the command line replaces the other


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and ``section.key=value`` overrides (values are YAML too).

    Relative data paths stay relative to the working directory. ``train.max_steps`` on the command line takes
    the place of the file's ``train.epochs``, and the other way round.

    Args:
        path: the file; None for defaults and overrides alone.
        overrides: texts such as ``train.epochs=2``. They win over the file.

    Raises:
        ConfigError: the file can't be read, or keys or values are wrong; every problem at once.

    Examples:
        >>> config = sapwood.load_config("tree.yaml", ["train.epochs=2"])
        >>> config.train.epochs
        2.0
    """
    tree, lines = _read_tree(path, overrides)
    return parse_config(tree, str(path) if path is not None else COMMAND_LINE, lines)


def origins(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, str]:
    """For each key path that was set, the place that set it last. A key path that isn't here has its
    default."""
    return _read_tree(path, overrides)[1]


def _read_tree(path: str | Path | None, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    tree, lines = _read_yaml(Path(path)) if path is not None else ({}, {})
    for i, text in enumerate(overrides):
        if "=" not in text and overrides[i + 1 : i + 2] and overrides[i + 1].startswith("="):
            value = "".join(overrides[i + 1 : i + 3])
            raise ConfigError(
                f"not a setting: {text!r}",
                COMMAND_LINE,
                "no space may stand beside =",
                f"write {text}{value}",
            )
        _override(tree, lines, text)
    given = [key for key in ALTERNATIVES if lines.get(key, "").startswith(COMMAND_LINE)]
    if len(given) == 1:
        _forget(tree, lines, next(key for key in ALTERNATIVES if key not in given))
    return tree, lines


def _forget(tree: dict[str, Any], lines: dict[str, str], path: str) -> None:
    section, _, key = path.partition(".")
    inner = tree.get(section)
    if isinstance(inner, dict):
        inner.pop(key, None)
    lines.pop(path, None)


def parse_config(
    tree: Mapping[str, Any], source: str = "config", lines: Mapping[str, str] | None = None
) -> RunConfig:
    """Validate plain data, for example what a YAML file holds.

    Args:
        tree: a mapping of sections to mappings of keys.
        source: where it comes from, for the messages.
        lines: for key paths, the places that set them; for the messages.

    Raises:
        ConfigError: keys or values are wrong; every problem at once.

    Examples:
        >>> sapwood.parse_config({"data": {"train": "rows.jsonl"}, "lora": {"rank": 4}}).lora.rank
        4
    """
    version = tree.get("version")
    if isinstance(version, int) and version > FORMAT:
        why = f"it is of format {version}, and this sapwood reads up to {FORMAT}"
        where = (lines or {}).get("version", source)
        mend = "update it; in a clone: git pull && make install"
        raise ConfigError("the config was written for a newer sapwood", where, why, mend)
    return RunConfig.model_validate(tree, context={"source": source, "lines": lines or {}})


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML that `load_config` reads back to an equal value."""
    stream = io.StringIO()
    yaml = _yaml()
    # U+0085, an old line break, would be read back as a blank if it weren't escaped
    yaml.allow_unicode = "\x85" not in config.model_dump_json()
    yaml.dump(config.model_dump(mode="json"), stream)
    return stream.getvalue()


def template_yaml(config: RunConfig) -> str:
    """A commented config with every key: what `sapwood init --all` writes."""
    out = ["# sapwood: every key. Those that you delete have their default.", ""]
    for name, field in RunConfig.model_fields.items():
        value = getattr(config, name)
        if not isinstance(value, Section):
            unset = value is None
            out += [f"# {help_of(field)}", f"# {name}:" if unset else f"{name}: {inline_yaml(value)}", ""]
            continue
        out.append(f"{name}:  # {help_of(field)}")
        for key, inner in type(value).model_fields.items():
            set_to = inline_yaml(getattr(value, key))
            comment = "# " if set_to == "null" else ""
            out.append(f"  # {help_of(inner)}")
            out.append(f"  {comment}{key}: {set_to}")
        out.append("")
    return "\n".join(out)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"train": {"lr": 1}}`` as ``{"train.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def _yaml() -> Any:
    from ruamel.yaml import YAML

    # YAML 1.2: 1e-4 is a number, `no` is a word; duplicate keys are errors
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = MAX_BYTES  # never fold: a value stays on the line of its key
    yaml.sort_base_mapping_type_on_output = False  # the order of the classes above
    return yaml


def inline_yaml(value: Any) -> str:
    """A value as YAML on one line."""
    stream = io.StringIO()
    yaml = _yaml()
    yaml.default_flow_style = True
    yaml.dump(list(value) if isinstance(value, tuple) else value, stream)
    return stream.getvalue().removesuffix("...\n").strip()


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The file's values as a tree, and for each key path the ``file:line`` that set the value."""
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if path.suffix.lower() in DATA_SUFFIXES:
        mend = f"sapwood init --data {path} writes the config; or: sapwood train CONFIG data.train={path}"
        raise ConfigError("that is a file of data, not a config", str(path), "a config names it", mend)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError("config file is too large", str(path), f"more than {MAX_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        mend = f"did you mean {path.parent / near[0]}?" if near else "sapwood init --data FILE writes one"
        raise ConfigError("config file not found", str(path), mend=mend) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("config file can't be read", str(path), str(error)) from None
    try:
        node = _yaml().compose(text)
        _refuse_aliases(node, path, 0)
        tree = _yaml().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
        raise ConfigError("not valid YAML", where, *explain(error, text)) from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise ConfigError("not valid YAML", str(path), brief(error)) from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        why, mend = (explain_scalar(text) if isinstance(tree, str) else None) or (
            f"found {'a list' if isinstance(tree, list) else 'a text'}",
            "`sapwood init` writes a config",
        )
        raise ConfigError("the config has no sections", str(path), why, mend)
    lines: dict[str, str] = {}
    if node is not None:
        _collect_lines(node, path, "", lines)
    # a section whose keys were all deleted keeps its defaults
    return {k: v for k, v in tree.items() if v is not None or k not in RunConfig.model_fields}, lines


def _refuse_aliases(node: Any, path: Path, depth: int, seen: set[int] | None = None) -> None:
    """Anchors make small files explode; a config needs none."""
    seen = set() if seen is None else seen
    if node is None:
        return
    where = f"{path}:{node.start_mark.line + 1}"
    if depth > 16:
        raise ConfigError("nested too deep", where, "a config has two levels")
    if id(node) in seen or getattr(node, "anchor", None):
        raise ConfigError("YAML anchors and aliases aren't accepted", where, mend="write the value out")
    seen.add(id(node))
    if not isinstance(node.value, list):
        return
    for item in node.value:
        for child in item if isinstance(item, tuple) else (item,):
            _refuse_aliases(child, path, depth + 1, seen)


def _collect_lines(node: Any, path: Path, prefix: str, lines: dict[str, str]) -> None:
    for key, value in node.value if node.id == "mapping" else ():
        name = f"{prefix}.{key.value}" if prefix else str(key.value)
        lines[name] = f"{path}:{key.start_mark.line + 1}"
        if value.id == "mapping":
            _collect_lines(value, path, name, lines)


def _override(tree: dict[str, Any], lines: dict[str, str], text: str) -> None:
    """Apply one ``section.key=value``."""
    from ruamel.yaml.error import YAMLError

    name, equals, raw = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"not a setting: {text!r}", COMMAND_LINE, mend="write section.key=value")
    try:
        value = _yaml().load(raw) if raw.strip() else None
    except (YAMLError, RecursionError, ValueError) as error:
        why = brief(error)
        raise ConfigError(f"not a YAML value: {text[:200]!r}", COMMAND_LINE, why) from None
    *sections, key = name.strip().split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{section} is not a section", f"{COMMAND_LINE} {name}")
        tree = inner
    tree[key] = value
    lines[name.strip()] = f"{COMMAND_LINE} {text}"


def field_of(parts: Sequence[str]) -> Any:
    """The field a key path names, or None."""
    return field_below(RunConfig, parts)
