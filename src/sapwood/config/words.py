"""The words that the data section takes: shapes of rows, keys of rows, roles, encodings."""

from __future__ import annotations

import codecs
from typing import Literal

Column = Literal[
    "instruction", "input", "output", "prompt", "completion", "messages", "conversations", "text",
    "system", "history", "tools", "context", "reasoning", "label", "weight",
]  # fmt: skip
Format = Literal[
    "auto", "alpaca", "dolly", "input-output", "firefly", "prompt-completion", "question-answer",
    "query-response", "problem-solution", "squad", "hc3", "xlam", "columns", "messages", "sharegpt",
    "conversation", "ultrachat", "glaive", "oasst", "text",
]  # fmt: skip
Role = Literal["system", "user", "assistant", "tool"]

_NO_TEXT = {"base64", "bz2", "hex", "quopri", "rot13", "uu", "zlib", "idna", "punycode", "undefined"}


def known_encoding(name: str) -> str:
    """The name of an encoding that Python knows, or auto. Raises ValueError for any other name."""
    if name == "auto":
        return name
    try:
        known = codecs.lookup(name).name
    except (LookupError, ValueError):
        raise ValueError("no encoding of this name; some are utf-8, gb18030, cp1252, shift_jis") from None
    if known in _NO_TEXT:
        raise ValueError("it doesn't make text of bytes")
    return name
