"""The tokenizer that a GGUF file describes, as a `tokenizers.Tokenizer` with the same ids.

A file names its kind (``gpt2``: byte-level BPE with merges; ``llama``: sentencepiece BPE with scores) and,
for the first, a pre-tokenizer by name. What cuts text into words is part of what the model learnt, so a name
that isn't known here is refused: a near guess would train on other tokens than the model expects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sapwood.errors import ModelError
from sapwood.gguf.file import GgufFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "▁"
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>")

_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """A tokenizer and what transformers wants to know beside it; None for tokens that the file lacks."""

    tokenizer: Any
    bos: str | None
    eos: str | None
    unk: str | None
    pad: str | None
    chat_template: str | None
    stop_ids: tuple[int, ...]


def read_tokenizer(file: GgufFile) -> GgufTokenizer:
    """Build the tokenizer of a file.

    Raises ModelError if the file has none, or a kind or pre-tokenizer that isn't known.
    """
    keys = _Keys(file.path, file.metadata)
    build = {"gpt2": _byte_level, "llama": _sentencepiece}.get(keys.kind)
    if build is None:
        known = "known kinds: gpt2, llama"
        raise ModelError(f"tokenizer kind {keys.kind or 'missing'!r} isn't supported", str(file.path), known)
    tokenizer = build(keys)
    _add_special_tokens(tokenizer, keys)
    _add_bos_eos(tokenizer, keys)
    template = file.metadata.get("tokenizer.chat_template")
    return GgufTokenizer(
        tokenizer=tokenizer,
        bos=keys.named("bos"),
        eos=keys.named("eos"),
        unk=keys.named("unknown"),
        pad=keys.named("padding"),
        chat_template=template if isinstance(template, str) and template.strip() else None,
        stop_ids=_stop_ids(keys),
    )


def _stop_ids(keys: _Keys) -> tuple[int, ...]:
    """Tokens that end an answer: those that the file names, and control tokens that end a turn by their text
    (llama.cpp stops on these too; files of chat models often name only the end of the document)."""
    named = [keys.named(name) for name in ("eos", "eot", "eom")]
    turns = [token for token in TURN_ENDS if token in keys.ids and keys.types[keys.ids[token]] == CONTROL]
    return tuple(dict.fromkeys(keys.ids[token] for token in (*named, *turns) if token is not None))


class _Keys:
    """The file's ``tokenizer.ggml.*`` values, checked."""

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path = path
        self.metadata = metadata
        self.kind = str(self.get("model") or "")
        self.tokens: list[str] = self.array("tokens")
        self.types: list[int] = self.array("token_type") or [NORMAL] * len(self.tokens)
        if not self.tokens:
            raise ModelError(
                "the model file holds no tokenizer", str(path), "tokenizer.ggml.tokens is missing"
            )
        if len(self.types) != len(self.tokens):
            self.fail(f"{len(self.types):,} token types for {len(self.tokens):,} tokens")
        self.ids = {token: id for id, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            self.fail("a token appears twice")

    def fail(self, why: str) -> None:
        raise ModelError("the file's tokenizer is damaged", str(self.path), why)

    def get(self, key: str) -> Any:
        return self.metadata.get(f"tokenizer.ggml.{key}")

    def array(self, key: str) -> list[Any]:
        value = self.get(key)
        if isinstance(value, np.ndarray):
            return value.tolist()
        return value if isinstance(value, list) else []

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        return value if isinstance(value, bool) else default

    def named(self, name: str) -> str | None:
        """The token that ``bos``, ``eos``, ``unknown`` or ``padding`` stands for."""
        id = self.get(f"{name}_token_id")
        if not isinstance(id, int):
            return None
        if not 0 <= id < len(self.tokens):
            self.fail(f"{name}_token_id is {id}, the vocabulary has {len(self.tokens):,} tokens")
        return self.tokens[id]


PRE_TOKENIZERS = ("gpt-2", "smollm", "qwen2", "deepseek-r1-qwen", "llama-bpe")


def _byte_level(keys: _Keys) -> Any:
    """GPT-2's kind: bytes as letters, words by a regular expression, merges in order."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    def split(words: str) -> Any:
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), behavior="isolated"), level])

    def gpt2() -> Any:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)

    words = {
        "gpt-2": gpt2,
        "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2()]),
        "qwen2": lambda: split(_QWEN2_WORDS),
        "deepseek-r1-qwen": lambda: split(_QWEN2_WORDS),
        "llama-bpe": lambda: split(_LLAMA3_WORDS),
        "chatglm-bpe": lambda: split(_LLAMA3_WORDS),  # ChatGLM 4 and GLM 4 cut as Llama 3 does
        "glm4": lambda: split(_LLAMA3_WORDS),
    }
    name = str(keys.get("pre") or "")
    if name not in words:
        why = f"known: {', '.join(words)}; another would cut text into other tokens than the model learnt"
        mend = "use the model's safetensors folder in place of the GGUF file"
        raise ModelError(f"pre-tokenizer {name or 'missing'!r} isn't supported", str(keys.path), why, mend)
    # Llama 3 looks whole words up before it merges
    model = models.BPE(keys.ids, _merges(keys), ignore_merges=name == "llama-bpe")
    tokenizer = Tokenizer(model)
    if "qwen" in name:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = words[name]()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(keys: _Keys) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for line in keys.array("merges"):
        left, space, right = str(line).partition(" ")
        if not space or left not in keys.ids or right not in keys.ids or left + right not in keys.ids:
            keys.fail(f"the merge {line!r} names tokens that the vocabulary doesn't have")
        merges.append((left, right))
    return merges


def _sentencepiece(keys: _Keys) -> Any:
    """Llama 2's and Gemma's kind: spaces as ▁, unknown characters as bytes, best-scored pairs merge first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores: list[float] = keys.array("scores")
    if len(scores) != len(keys.tokens):
        keys.fail(f"{len(scores):,} scores for {len(keys.tokens):,} tokens")
    model = models.BPE(
        keys.ids,
        _merges_by_score(keys, scores),
        unk_token=keys.named("unknown"),
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    prefix = keys.flag("add_space_prefix", True)
    replace = normalizers.Replace(" ", SPACE)
    first = [normalizers.Prepend(SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*first, replace])
    last = [decoders.Strip(" ", 1, 0)] if prefix else []
    pieces = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last]
    tokenizer.decoder = decoders.Sequence(pieces)
    return tokenizer


def _merges_by_score(keys: _Keys, scores: list[float]) -> list[tuple[str, str]]:
    """Every way to join two tokens into a third, the best-scored third first.

    Sentencepiece keeps scores in place of merges: it joins whichever neighbours make the best-scored token.
    """
    ids = keys.ids
    ranked: list[tuple[float, int, int, str, str]] = []
    for token, type, score in zip(keys.tokens, keys.types, scores, strict=True):
        if type != NORMAL or len(token) < 2:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                ranked.append((-score, ids[left], ids[right], left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _add_special_tokens(tokenizer: Any, keys: _Keys) -> None:
    """Tokens that stand for themselves in text: control tokens (special), and the user-defined ones."""
    from tokenizers import AddedToken

    special = {keys.named(name) for name in ("bos", "eos", "unknown", "padding")} - {None}
    added: list[Any] = []
    for token, type in zip(keys.tokens, keys.types, strict=True):
        if type in (CONTROL, UNKNOWN) or token in special:
            added.append(AddedToken(token, special=True, normalized=False))
        elif type == USER_DEFINED:
            added.append(AddedToken(token, special=False, normalized=False))
    tokenizer.add_tokens(added)


def _add_bos_eos(tokenizer: Any, keys: _Keys) -> None:
    """What the file says about BOS and EOS around plain text (chat templates write their own)."""
    from tokenizers import processors

    default = keys.kind == "llama" or keys.get("pre") == "llama-bpe"
    bos = keys.named("bos") if keys.flag("add_bos_token", default) else None
    eos = keys.named("eos") if keys.flag("add_eos_token", False) else None
    if bos or eos:
        around = {token: keys.ids[token] for token in (bos, eos) if token}
        single = " ".join(part for part in (bos and f"{bos}:0", "$A:0", eos and f"{eos}:0") if part)
        pair = " ".join(part for part in (single, bos and f"{bos}:1", "$B:1", eos and f"{eos}:1") if part)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=list(around.items())
        )
