"""A tokenizer as a server needs it, kept in two files. It starts without transformers, and encodes, decodes
and renders as the one that it was made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

ENCODER, SETTINGS = "tokenizer.json", "tokens.json"
NAMED = ("bos_token", "eos_token", "pad_token")


@dataclass(frozen=True, slots=True)
class Tokens:
    """The names are those of transformers' fast tokenizers, for whoever is given one or the other.

    Attributes:
        backend_tokenizer: what encodes, without padding and truncation. kind: the class that it was.
        chat_template: Jinja text, or several by name; None if there is none.
        special_tokens_map: what templates are told. eos_token_id: on which an answer ends.
    """

    backend_tokenizer: Tokenizer
    kind: str
    chat_template: str | dict[str, str] | None
    special_tokens_map: dict[str, Any]
    eos_token_id: int | None
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None

    is_fast = True

    @classmethod
    def write(cls, tokenizer: Any, folder: Path) -> None:
        """``tokenizer``: a fast tokenizer of transformers."""
        (folder / ENCODER).write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
        told = {
            "kind": type(tokenizer).__name__,
            "chat_template": tokenizer.chat_template,
            "special_tokens_map": dict(tokenizer.special_tokens_map),
            "eos_token_id": tokenizer.eos_token_id,
            **{name: getattr(tokenizer, name) for name in NAMED},
        }
        (folder / SETTINGS).write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Tokens:
        backend = Tokenizer.from_file(str(folder / ENCODER))
        backend.no_padding()
        backend.no_truncation()
        return cls(backend, **json.loads((folder / SETTINGS).read_text(encoding="utf-8")))

    def get_chat_template(self, chosen: str | None, tools: Sequence[Any] | None = None) -> str:
        """The Jinja text for a chat with these tools. Raises ValueError if there is none."""
        own = self.chat_template
        if not isinstance(own, dict):
            found = own if chosen is None else chosen
        elif chosen is not None:
            found = own.get(chosen, chosen)
        else:
            found = own.get("tool_use") if tools is not None else None
            found = found or own.get("default")
        if found is None:
            raise ValueError("there is no chat template")
        return found

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        """Spaces as the model wrote them, whatever else is asked for."""
        return self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """None for an id that it doesn't know."""
        if isinstance(ids, int):
            return self.backend_tokenizer.id_to_token(ids)
        return [self.backend_tokenizer.id_to_token(id) for id in ids]

    def get_vocab(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def get_added_vocab(self) -> dict[str, int]:
        added: dict[int, Any] = self.backend_tokenizer.get_added_tokens_decoder()
        return {token.content: id for id, token in added.items()}
