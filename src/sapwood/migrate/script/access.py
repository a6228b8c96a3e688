"""What an attribute or an item of a value is."""

from __future__ import annotations

from typing import Any

from sapwood.migrate.script.outside import COMMANDED, PARSED, UNSET, UNSET_MODEL, reads_rows, sets_training
from sapwood.migrate.script.values import (
    Attr,
    Call,
    Class,
    Coded,
    Field,
    Function,
    Ids,
    Module,
    Object,
    Ones,
    Row,
    Special,
    Unknown,
    dotted,
    is_plain,
)

ROLES = {
    "eos_token": "eos", "eos_token_id": "eos", "pad_token": "pad", "pad_token_id": "pad", "bos_token": "bos",
    "bos_token_id": "bos", "unk_token": "unk", "unk_token_id": "unk", "eod_id": "<|endoftext|>",
    "im_end_id": "<|im_end|>", "im_start_id": "<|im_start|>",
}  # fmt: skip


def attribute(of: Any, name: str, line: int) -> Any:
    if isinstance(of, Object):
        return _of_object(of, name, line)
    if isinstance(of, Class):
        return of.fields.get(name, Unknown(f"{of.node.name}.{name}", line))
    parsed = isinstance(of, Call) and of.inside in (PARSED, COMMANDED) and sets_training(of.name)
    if isinstance(of, Call) and parsed and name in UNSET:
        return of.attrs.get(name, of.kwargs.get(name, UNSET[name]))
    if isinstance(of, Call) and of.inside == PARSED and of.last == "ModelConfig" and name in UNSET_MODEL:
        return UNSET_MODEL[name]
    if isinstance(of, Coded):
        return item(of, name, line)
    if isinstance(of, Call) and name in of.attrs and name not in ROLES:
        return of.attrs[name]
    if name in ROLES and not isinstance(of, Module):
        return Special(ROLES[name], line)
    if isinstance(of, Call) and name in of.kwargs:
        return of.kwargs[name]
    if isinstance(of, Call) and name in ("model", "tokenizer") and of.last == "from_pretrained":
        return Attr(of, name, line)
    if isinstance(of, Call) and name == "column_names":
        return Attr(of, name, line)
    if isinstance(of, Module):
        return Module(f"{of.name}.{name}")
    return Attr(of, name, line)


def _of_object(of: Object, name: str, line: int) -> Any:
    known = of.items()
    if name in known:
        return known[name]
    if name == "__dict__":
        return known
    method = of.made_by.methods.get(name) if of.made_by is not None else None
    if method is not None:
        return Function(method.node, method.env, owner=of)
    return Unknown(f"{of.name}.{name}", line)


def are_rows(value: Any) -> bool:
    """Whether a value is what a call read from a file or a hub, or a part of it."""
    while isinstance(value, (Attr, Call)):
        if isinstance(value, Call) and reads_rows(value.name):
            return True
        value = value.of
    return False


def item(of: Any, key: Any, line: int) -> Any:
    """``of[key]``."""
    if isinstance(of, Row):
        known = of.columns.get(key) if isinstance(key, str) else None
        if known is not None:
            return known
        return Field((str(key),), line) if isinstance(key, (str, int)) else Unknown("a row", line)
    if isinstance(of, Field):
        if isinstance(key, (str, int)) and not isinstance(key, bool):
            return Field((*of.path, str(key)), line)
        return of
    if isinstance(of, Coded):
        if isinstance(key, str) and key in of.extra:
            return of.extra[key]
        return {"input_ids": of.ids, "attention_mask": Ones()}.get(
            key, of.ids if key == 0 else Unknown(str(key), line)
        )
    if isinstance(of, Object) and isinstance(key, str):
        return _of_object(of, key, line)
    if isinstance(of, dict) and isinstance(key, (str, int)):
        return of.get(key, Unknown(f"[{key!r}]", line))
    if isinstance(of, (list, tuple)) and isinstance(key, int) and -len(of) <= key < len(of):
        return of[key]
    if isinstance(of, (list, tuple)) and len(of) == 1:
        return of[0]
    if isinstance(of, Ids) and key == 0:
        return of
    if isinstance(of, (Call, Attr)) and is_plain(key):
        return Attr(of, f"[{key!r}]", line)
    return Unknown(f"{dotted(of)}[{key if is_plain(key) else dotted(key)!r}]", line)
