"""Help on keys of the config: what `sapwood help lora.rank` and `sapwood help lora` say."""

from __future__ import annotations

import shutil
import textwrap
from typing import Any

from sapwood.config.faults import field_below, help_of
from sapwood.config.file import inline_yaml
from sapwood.config.names import nearest, sections_of
from sapwood.config.sections import RunConfig

BOUNDS = {
    "minimum": "{} or more", "gt": "more than {}", "exclusiveMinimum": "more than {}",
    "maximum": "at most {}", "le": "at most {}", "exclusiveMaximum": "less than {}",
}  # fmt: skip


def key_help(name: str) -> str | None:
    """A key with its default and the values that it takes, or all keys of a section; None if there is no key
    of this name."""
    kind = sections_of(RunConfig).get(name)
    field = field_below(RunConfig, name.split("."))
    if field is None:
        return None
    lines = _wrapped(f"{name}: {help_of(field)}")
    if kind is not None:
        keys = kind.model_fields.items()
        return "\n".join(
            [*lines, "", *(line for key, at in keys for line in _wrapped(_told(name, key, at), "    "))]
        )
    default = None if field.is_required() else field.get_default()
    unset = default in (None, (), {})
    usual = "not set" if unset else inline_yaml(default)
    values = _values(name)
    lines += ["", f"  default  {'none: it must be set' if field.is_required() else usual}"]
    lines += _wrapped(f"  values   {values}", " " * 11) if values else []
    return "\n".join([*lines, f"  to set   sapwood train {name}={example(name)}"])


def example(name: str) -> str:
    """A value of a key, as a word of a command line: its default, if it has one."""
    field = field_below(RunConfig, name.split("."))
    default = None if field is None or field.is_required() else field.get_default()
    return "VALUE" if default in (None, (), {}) else inline_yaml(default).replace(" ", "")


def choices(name: str) -> list[str]:
    """The words that a key takes; empty if it takes numbers or any text."""
    return [
        str(value) for form in _forms(name) for value in form.get("enum", [form.get("const", "")]) if value
    ]


def near_key(name: str) -> str:
    """What somebody may have meant who asked for a key that isn't there."""
    found = nearest(name.split("."), RunConfig)
    return "sapwood --help lists the verbs" if found.startswith("valid here") and "." not in name else found


def _told(section: str, key: str, field: Any) -> str:
    return f"  {section}.{key}: {help_of(field)}"


def _values(name: str) -> str:
    """The choices or the bounds of a key; empty if any text will do."""
    bounds = [BOUNDS[at].format(f"{form[at]:,}") for form in _forms(name) for at in BOUNDS if at in form]
    return ", ".join(choices(name) + bounds)


def _forms(name: str) -> list[dict[str, Any]]:
    """JSON schemas of what a key takes."""
    section, _, key = name.rpartition(".")
    kind: Any = sections_of(RunConfig).get(section, RunConfig)
    told: dict[str, Any] = kind.model_json_schema()["properties"][key]
    return [told, told.get("items", {}), *told.get("anyOf", ())]


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _width(), subsequent_indent=indent, break_on_hyphens=False)


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 100)
