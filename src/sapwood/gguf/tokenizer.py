"""The tokenizer that a GGUF file describes, as a `tokenizers.Tokenizer` with the same ids.

A file names its kind (``gpt2``: byte-level BPE with merges; ``llama``: sentencepiece BPE with scores;
``gemma4``: the same with merges) and, for the first, a pre-tokenizer by name. What cuts text into words is
part of what the model learnt, so a name that isn't known here is refused: a near guess would train on other
tokens than the model expects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sapwood.errors import ModelError
from sapwood.gguf.file import GgufFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "▁"
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<turn|>")

# Rules that cut text into words, as the tokenizers of the families write them: each cuts what those before it
# left.
_TAIL = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",)
_DIGITS = (r"\p{N}", *_GPT2)
_QWEN2 = (rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+{_TAIL}",)
_QWEN35 = (rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+{_TAIL}",)
_LLAMA3 = (rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+{_TAIL}",)
_SEED = (
    rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BY_CASE = r"[^\r\n\p{L}\p{N}]?"
_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (rf"{_BY_CASE}{_UPPER}*{_LOWER}+|{_BY_CASE}{_UPPER}+{_LOWER}*|\p{{N}}|{_SLASHES}",)
_GPT4O = (
    rf"{_BY_CASE}{_UPPER}*{_LOWER}+{_SHORT}?|{_BY_CASE}{_UPPER}+{_LOWER}*{_SHORT}?|\p{{N}}{{1,3}}|{_SLASHES}",
)
_FALCON = (r"[\p{P}$+<=>^~|`]+", *_GPT2, r"[0-9]{3}")
_BLOOM = (r" ?[^(\s|.,!?…。，、।۔،)]+",)
_SPACES = "|".join(
    rf"\s{{{count}}}(?!\S)" for count in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2")
)
_JAIS2 = (
    rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|"
    rf"\s*[\r\n]+|{_SPACES}|\s",
)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    rf" ?[\p{{P}}\p{{S}}]+{_TAIL}",
)
WORDS = {
    **dict.fromkeys(("gpt-2", "olmo", "exaone4", "mpt"), _GPT2),
    "falcon": _FALCON,
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), _BLOOM),
    "jais-2": _JAIS2,
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), _DIGITS),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan"), _QWEN2),
    **dict.fromkeys(("llama-bpe", "lfm2", "falcon3"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe", "glm4"), _LLAMA3),
    "tekken": _TEKKEN,
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
    "qwen35": _QWEN35,
    "seed-coder": _SEED,
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), _DEEPSEEK3),
}
WHOLE_WORDS = ("llama-bpe", "lfm2", "falcon3", "tekken")  # looked up before they are merged; BOS by default


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
    build = {"gpt2": _byte_level, "llama": _by_scores, "gemma4": _by_merges}.get(keys.kind)
    if build is None:
        known = "known kinds: gpt2, llama, gemma4"
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


# Of each rule one name, in the order in which an export tries them.
PRE_TOKENIZERS = (
    *("gpt-2", "smollm", "qwen2", "deepseek-r1-qwen", "llama-bpe", "dbrx", "tekken", "gpt-4o", "qwen35"),
    *("seed-coder", "hunyuan-dense", "falcon", "bloom", "jais-2"),
)


def _cutting(rules: tuple[str, ...]) -> Any:
    """Words, with bytes as letters. If the library has a rule of its own, that one is taken, because a
    tokenizer's form is part of an adapter's fingerprint."""
    from tokenizers import Regex, pre_tokenizers

    level = partial(pre_tokenizers.ByteLevel, add_prefix_space=False)
    if rules == _GPT2:
        return level(use_regex=True)
    if rules == _DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level(use_regex=True)])
    splits = [pre_tokenizers.Split(Regex(words), behavior="isolated") for words in rules]
    return pre_tokenizers.Sequence([*splits, level(use_regex=False)])


def _byte_level(keys: _Keys) -> Any:
    """GPT-2's kind: bytes as letters, words by regular expressions, merges in order."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    name = str(keys.get("pre") or "")
    if name not in WORDS:
        why = f"known: {', '.join(WORDS)}; another would cut text into other tokens than the model learnt"
        mend = "use the model's safetensors folder in place of the GGUF file"
        raise ModelError(f"pre-tokenizer {name or 'missing'!r} isn't supported", str(keys.path), why, mend)
    model = models.BPE(keys.ids, _merges(keys), ignore_merges=name in WHOLE_WORDS)
    tokenizer = Tokenizer(model)
    if "qwen" in name:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _cutting(WORDS[name])
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


def _by_scores(keys: _Keys) -> Any:
    """Llama 2's and Gemma's kind: best-scored pairs merge first."""
    scores: list[float] = keys.array("scores")
    if len(scores) != len(keys.tokens):
        keys.fail(f"{len(scores):,} scores for {len(keys.tokens):,} tokens")
    return _sentencepiece(keys, _merges_by_score(keys, scores), keys.flag("add_space_prefix", True))


def _by_merges(keys: _Keys) -> Any:
    """Gemma 4's kind: merges in order, none of which joins a line's end with anything else."""
    from tokenizers import Regex, pre_tokenizers

    tokenizer = _sentencepiece(keys, _merges(keys), prefix=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+"), behavior="isolated")
    return tokenizer


def _sentencepiece(keys: _Keys, merges: list[tuple[str, str]], prefix: bool) -> Any:
    """Spaces as ▁, unknown characters as bytes. ``prefix``: a space stands before the text."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    model = models.BPE(keys.ids, merges, unk_token=keys.named("unknown"), fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
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

    default = keys.kind != "gpt2" or keys.get("pre") in WHOLE_WORDS
    always = keys.kind == "gemma4"  # llama.cpp does, whatever the file says
    bos = keys.named("bos") if always or keys.flag("add_bos_token", default) else None
    eos = keys.named("eos") if keys.flag("add_eos_token", False) else None
    if bos or eos:
        around = {token: keys.ids[token] for token in (bos, eos) if token}
        single = " ".join(part for part in (bos and f"{bos}:0", "$A:0", eos and f"{eos}:0") if part)
        pair = " ".join(part for part in (single, bos and f"{bos}:1", "$B:1", eos and f"{eos}:1") if part)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=list(around.items())
        )
