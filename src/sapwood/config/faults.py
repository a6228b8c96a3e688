"""What is wrong with a config's values, as our own problems: what, where, why, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import UnionType
from typing import Any, Union, get_origin

from sapwood.config.names import nearest, sections_of
from sapwood.errors import ConfigError, Problem

WANTED = {  # what a key takes, by pydantic's names of faults; in braces, the numbers and words that it tells
    "string_type": "a text",
    "tuple_type": "a list, such as [a, b]",
    "dict_type": "pairs, such as {{name: value}}",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "one word of at most 64 characters, all of a kind that a name may have",
}


def config_error(error: Any, config: Any, source: str, lines: Mapping[str, str]) -> ConfigError:
    """All that pydantic found, in our words.

    Args:
        error: its ValidationError.
        config: the class of the whole config.
        source: where the values came from; ``lines``: for key paths, the place that set each.
    """
    return ConfigError(
        [_problem(alike, config, source, lines) for alike in _by_value(error.errors(), config)]
    )


def _by_value(details: Sequence[Any], config: Any) -> Iterable[list[Any]]:
    """Faults of one value together: a key that takes values of several kinds has a fault for each kind."""

    def place(numbered: tuple[int, Any]) -> Any:
        at, detail = numbered
        field = field_below(config, list(map(str, detail["loc"][:2])))
        several = field is not None and get_origin(field.annotation) in (Union, UnionType)
        return detail["loc"][:2] if several else at

    for _, alike in groupby(enumerate(details), key=place):
        yield [detail for _, detail in alike]


def field_below(config: Any, parts: Sequence[str]) -> Any:
    """The field that a key path names, or None."""
    sections = sections_of(config)
    if len(parts) == 2 and parts[0] in sections:
        return sections[parts[0]].model_fields.get(parts[1])
    return config.model_fields.get(parts[0]) if len(parts) == 1 else None


def help_of(field: Any) -> str:
    """The docstring of a field, on one line."""
    return " ".join(str(field.description).split())


def _problem(alike: Sequence[Any], config: Any, source: str, lines: Mapping[str, str]) -> Problem:
    """pydantic's faults of one value as what · where · why · mend."""
    detail = alike[0]
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
    found = detail.get("input")
    shown = f", found {_as_written(found)}" if isinstance(found, str | int | float | bool | None) else ""
    if detail["type"] == "string_type" and isinstance(found, Mapping | list):
        kind, sign = ("a section", "brace") if isinstance(found, Mapping) else ("a list", "bracket")
        shown = f", found {kind}: a text that begins with a {sign} needs quotes"
    field = field_below(config, parts)
    help_text = f"{key}: {help_of(field)}" if field is not None else ""
    why = " or ".join(dict.fromkeys(map(_why, alike))).replace(" or it must be ", " or ")
    return Problem(f"{key or 'config'} is not valid", where, f"{why}{shown}", help_text)


def _why(detail: Any) -> str:
    """What a value must be."""
    told: Mapping[str, Any] = detail.get("ctx") or {}
    if detail["type"] in WANTED:
        exact = {k: f"{v:,.15g}" if isinstance(v, int | float) else v for k, v in told.items()}
        return "it must be " + WANTED[detail["type"]].format(**exact).replace("'", "")
    why = str(detail["msg"]).removeprefix("Value error, ")
    return why[0].lower() + why[1:]


def _as_written(value: Any) -> str:
    """A value as a config spells it."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return repr(value)


def _no_section(key: str, where: str, found: Any) -> Problem:
    """The problem of a single value in a section's place; perhaps it is the value of the section's main
    key."""
    main = {"base": "model", "data": "train", "lora": "rank"}.get(key, "KEY")
    value = found if isinstance(found, str | int | float) else "VALUE"
    return Problem(
        f"{key} is not valid",
        where,
        f"it is a section, found {'a list' if isinstance(found, list) else _as_written(found)}",
        f"{key}: {{{main}: {value}}}",
    )


def _all_names(config: Any) -> set[str]:
    return {*config.model_fields, *(k for s in sections_of(config).values() for k in s.model_fields)}
