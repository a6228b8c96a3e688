"""Pieces of text are whole characters, and joined they are the text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.serve.text import JOINER, REPLACEMENT, TextStream, decode
from tests.base.tiny import tiny_tokenizer


def sentencepiece_like() -> Any:
    """Metaspace with byte fallback, as Llama 2 and Gemma have: the decoder strips the first space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁tree", "▁an", "▁old", "s", "你"]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = {"bytes": tiny_tokenizer(), "metaspace": sentencepiece_like()}
EMOJI = "👩\u200d🌾 🇫🇷 你好 é ▁ end"


def pieces_of(tokenizer: Any, ids: list[int]) -> list[str]:
    writer = TextStream(tokenizer)
    pieces = [piece for token in ids if (piece := writer.push(token))]
    pieces += [rest] if (rest := writer.flush()) else []
    assert writer.text == "".join(pieces) and writer.ids == ids
    return pieces


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_character_never_comes_in_halves(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    if name == "bytes":
        ids = [tokenizer.convert_tokens_to_ids(bytes_as_text(byte)) for byte in EMOJI.encode()]
    else:
        ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in EMOJI.encode()]
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == decode(tokenizer, ids) == EMOJI
    assert len(pieces) > 8
    assert not any(REPLACEMENT in piece or piece.endswith(JOINER) for piece in pieces)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_answer_that_is_cut_ends_on_a_whole_character(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    spell = bytes_as_text if name == "bytes" else lambda byte: f"<0x{byte:02X}>"
    for length in range(1, len("é你好👩".encode())):
        writer = TextStream(tokenizer)
        for byte in "é你好👩".encode()[:length]:
            writer.push(tokenizer.convert_tokens_to_ids(spell(byte)))
        writer.flush(cut=True)
        assert writer.text == "é你好👩".encode()[:length].decode(errors="ignore")


def bytes_as_text(byte: int) -> str:
    """The character that byte-level tokenizers write for a byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return bytes_to_unicode()[byte]


def test_spaces_stay_where_the_decoder_strips_the_first() -> None:
    tokenizer = TOKENIZERS["metaspace"]
    ids = tokenizer.convert_tokens_to_ids(["▁an", "▁old", "▁tree", "s", "▁", "▁tree"])
    assert pieces_of(tokenizer, ids) == ["an", " old", " tree", "s", " ", " tree"]


def test_bytes_that_are_no_character_come_at_the_end() -> None:
    tokenizer = TOKENIZERS["bytes"]
    ids = [tokenizer.convert_tokens_to_ids(bytes_as_text(byte)) for byte in b"ok\xf0\x9f"]
    assert pieces_of(tokenizer, ids) == ["o", "k", REPLACEMENT]


def test_special_tokens_are_not_text() -> None:
    tokenizer = TOKENIZERS["bytes"]
    assert pieces_of(tokenizer, [*tokenizer.encode("a"), 1, *tokenizer.encode("b")]) == ["a", "b"]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.lists(st.integers(0, 255), max_size=12))
@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_join_to_what_the_tokens_decode_to(name: str, text: str, extra: list[int]) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text) + extra
    joined, whole = "".join(pieces_of(tokenizer, ids)), decode(tokenizer, ids)
    # byte fallback takes back a good character when a later byte is bad; what was shown can't be taken back
    assert joined == whole or (name == "metaspace" and REPLACEMENT in whole)
