"""Number formats: how the base is held, what its products are in."""

from __future__ import annotations

from typing import Any

from sapwood.migrate.converter import Convert, chosen, number_of, unread, when, word_of
from sapwood.migrate.draft import Draft
from sapwood.migrate.script.values import is_plain

DTYPES = {
    "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "half": "fp16", "float32": "fp32",
    "fp32": "fp32", "float": "fp32", "auto": "auto",
}  # fmt: skip


def _storage(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    """The number format of the base, unless it is held in 4 or 8 bits."""
    word = DTYPES.get(word_of(value)) if value is not None else "auto"
    if word is None:
        unread(draft, theirs, value, line)
    elif draft.settings.get("base.storage") in ("nf4", "fp4", "int8"):
        draft.note(
            "base.storage",
            line,
            theirs,
            value,
            "the base is quantised: this is its other tensors' format",
            "基座已量化：这只是其余张量的格式",
        )
    else:
        draft.take("base.storage", word, line, theirs, value, en, zh)


def _mixed(word: str) -> Convert:
    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        said = (
            "what is trained is fp32 always; the base's format is base.storage",
            "被训练的参数始终是 fp32；基座的格式是 base.storage",
        )
        packed = draft.settings.get("base.storage") in ("nf4", "fp4", "int8")
        if value in (True, "true", "auto") and "base.storage" not in draft.settings:
            draft.take("base.storage", word, line, theirs, value, en or said[0], zh or said[1])
        elif value is True and packed and "base.compute_dtype" not in draft.settings:
            draft.take("base.compute_dtype", word, line, theirs, value, en or said[0], zh or said[1])
        else:
            draft.note("base.storage", line, theirs, value, en or said[0], zh or said[1])

    return convert


def _bits(four: str) -> Convert:
    def convert(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
        if value is True:
            kind = (
                four
                if draft.settings.get("base.storage") not in ("nf4", "fp4")
                else draft.settings["base.storage"]
            )
            draft.take("base.storage", kind, line, theirs, value, en, zh)
        elif not is_plain(value):
            unread(draft, theirs, value, line)
        else:
            draft.note("base.storage", line, theirs, value, "not packed by this key", "这个键没有开启量化")

    return convert


def _quantization_bit(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    kinds: dict[float, str] = {4: "nf4", 8: "int8"}
    kind = kinds.get(number_of(value) or 0)
    if kind is not None:
        draft.take("base.storage", kind, line, theirs, value, en, zh)
    else:
        draft.unread(line, theirs, value, "4 and 8 bits are here, no others", "这里只有 4 比特和 8 比特")


FORMATS: dict[str, Convert] = {
    "storage": _storage,
    "bf16": _mixed("bf16"),
    "fp16": _mixed("fp16"),
    "4bit": _bits("fp4"),
    "nf4": _bits("nf4"),
    "8bit": _bits("int8"),
    "quantization_bit": _quantization_bit,
    "quant_type": when("base.storage", lambda value: value in ("nf4", "fp4")),
    "compute": chosen("base.compute_dtype", DTYPES, ("number format", "数值格式")),
    "double": when("base.double_quant", lambda value: isinstance(value, bool)),
}
