"""What is wrong with a config's values, as our own problems: what, where, why, and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sapwood.config.names import nearest, sections_of
from sapwood.errors import ConfigError, Problem


def config_error(error: Any, config: Any, source: str, lines: Mapping[str, str]) -> ConfigError:
    """All that pydantic found, in our words.

    Args:
        error: its ValidationError.
        config: the class of the whole config.
        source: where the values came from; ``lines``: for key paths, the place that set each.
    """
    return ConfigError([_problem(detail, config, source, lines) for detail in error.errors()])


def field_below(config: Any, parts: Sequence[str]) -> Any:
    """The field that a key path names, or None."""
    sections = sections_of(config)
    if len(parts) == 2 and parts[0] in sections:
        return sections[parts[0]].model_fields.get(parts[1])
    return config.model_fields.get(parts[0]) if len(parts) == 1 else None


def help_of(field: Any) -> str:
    """The docstring of a field, on one line."""
    return " ".join(str(field.description).split())


def _problem(detail: Any, config: Any, source: str, lines: Mapping[str, str]) -> Problem:
    """One pydantic error as what · where · why · mend."""
    names = _all_names(config)
    parts = [str(part) for part in detail["loc"] if isinstance(part, str) and part in names]
    unknown = detail["type"] == "extra_forbidden"
    if unknown:
        parts = [str(part) for part in detail["loc"]]
    key = ".".join(parts)
    where = next((lines[k] for k in (key, key.rpartition(".")[0]) if k in lines), source)
    if unknown:
        return Problem(f"unknown key {key}", where, mend=nearest(parts, config))
    if detail["type"] == "missing":
        mend = "data: {train: FILE}" if key.startswith("data") else f"set {key}"
        return Problem(f"{key} is missing", where, mend=f"add it: {mend}")
    if key in sections_of(config) and detail["type"] in ("model_type", "model_attributes_type"):
        return _no_section(key, where, detail.get("input"))
    why = detail["msg"].removeprefix("Value error, ")
    found = detail.get("input")
    shown = f", found {found!r}" if isinstance(found, str | int | float | bool | None) else ""
    if detail["type"] == "string_type" and isinstance(found, Mapping | list):
        kind, sign = ("a section", "brace") if isinstance(found, Mapping) else ("a list", "bracket")
        shown = f", found {kind}: a text that begins with a {sign} needs quotes"
    field = field_below(config, parts)
    help_text = f"{key}: {help_of(field)}" if field is not None else ""
    return Problem(f"{key or 'config'} is not valid", where, f"{why[0].lower()}{why[1:]}{shown}", help_text)


def _no_section(key: str, where: str, found: Any) -> Problem:
    """The problem of a single value in a section's place; perhaps it is the value of the section's main
    key."""
    main = {"base": "model", "data": "train", "lora": "rank"}.get(key, "KEY")
    value = found if isinstance(found, str | int | float) else "VALUE"
    return Problem(
        f"{key} is not valid", where, f"it is a section, found {found!r}", f"{key}: {{{main}: {value}}}"
    )


def _all_names(config: Any) -> set[str]:
    return {*config.model_fields, *(k for s in sections_of(config).values() for k in s.model_fields)}
