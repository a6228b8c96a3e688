"""A Hugging Face tokenizer as GGUF metadata.

GGUF only names the rule that cuts text into words (``tokenizer.ggml.pre``). The name is found by trial: the
metadata is written with each name that `model.gguf_tokenizer` reads, read back, and compared on text of many
kinds. llama.cpp's own reading is compared later, by the export check.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sapwood.errors import ExportError, ModelError
from sapwood.export.traces import PROMPTS
from sapwood.gguf.file import GgufFile
from sapwood.gguf.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    PRE_TOKENIZERS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    read_tokenizer,
)

Metadata = dict[str, Any]
SAMPLES = (
    *PROMPTS,
    "I'm sure they'LL say it's   12345.67 €, won't they?\n\n\n\tYes – 3½ × 10⁻⁶!",
    "héllo wörld, naïve façade; Привет, мир! こんにちは世界 안녕하세요 مرحبا שלום",
    "  leading, trailing  \n\r\n x\u00a0y\u3000z 👩‍👩‍👧‍👦🌳 ﬁ ｆｕｌｌ A\u030a e\u0301",
    "नमस्ते दुनिया สวัสดี HTTPServer's getName/Value \n 1234567",
    'for (int i = 0; i < 100; ++i) { printf("%d\\n", a[i]); } // done\n\n# Title\n- item',
)


def tokenizer_metadata(tokenizer: Any, rows: int) -> Metadata:
    """``tokenizer.ggml.*`` for a transformers fast tokenizer.

    Args:
        rows: of the model's embedding; ids that the tokenizer doesn't know are filled up, tokens without a
            row are left out.

    Raises:
        ExportError: no kind of tokenizer that GGUF knows makes the same tokens.
    """
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    if told["model"]["type"] != "BPE":
        raise ExportError(
            f"a {told['model']['type']} tokenizer can't be written as GGUF", "tokenizer", mend="--to merged"
        )
    common = _tokens(tokenizer, told, rows) | _special(tokenizer)
    for kind in _kinds(told, common["tokenizer.ggml.tokens"]):
        metadata = common | kind
        if _reads_equal(tokenizer, metadata):
            return metadata
    raise ExportError(
        "the tokenizer can't be written as GGUF",
        "tokenizer",
        f"none of llama.cpp's pre-tokenizers ({', '.join(PRE_TOKENIZERS)}) cuts text as this tokenizer does",
        "train on the model's own GGUF file, whose tokenizer is carried over",
    )


def _tokens(tokenizer: Any, told: Any, rows: int) -> Metadata:
    added = {token["id"]: token for token in told["added_tokens"]}
    names = {id: token for token, id in tokenizer.get_vocab().items()}
    tokens = [names.get(id, f"[PAD{id}]") for id in range(rows)]
    unknown = told["model"].get("unk_token")

    def type_of(id: int, token: str) -> int:
        if id not in names:
            return UNUSED
        if token == unknown:
            return UNKNOWN
        if id in added:
            return CONTROL if added[id]["special"] else USER_DEFINED
        return BYTE if told["model"].get("byte_fallback") and _is_byte(token) else NORMAL

    types = [type_of(id, token) for id, token in enumerate(tokens)]
    return {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}


def _special(tokenizer: Any) -> Metadata:
    named = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    ids = {gguf: getattr(tokenizer, f"{ours}_token_id") for gguf, ours in named.items()}
    found: Metadata = {f"tokenizer.ggml.{k}_token_id": int(id) for k, id in ids.items() if id is not None}
    plain, whole = (tokenizer("a", add_special_tokens=flag)["input_ids"] for flag in (False, True))
    found["tokenizer.ggml.add_bos_token"] = whole[:1] == [ids["bos"]] and whole[:1] != plain[:1]
    found["tokenizer.ggml.add_eos_token"] = whole[-1:] == [ids["eos"]] and whole[-1:] != plain[-1:]
    return found


def _kinds(told: Any, tokens: Sequence[str]) -> Iterator[Metadata]:
    merges: list[tuple[str, str]] = [
        tuple(m) if isinstance(m, list) else tuple(m.split(" ", 1)) for m in told["model"]["merges"]
    ]
    if not told["model"].get("byte_fallback"):
        for name in PRE_TOKENIZERS:
            yield {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": name,
                "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
            }
        return
    # SentencePiece joins whichever neighbours make the best-scored token: the earlier merged, the better
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    scores = [-float(ranks.get(token, len(merges))) for token in tokens]
    for prefix in (False, True):
        yield {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.add_space_prefix": prefix,
        }
    yield {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.add_space_prefix": False,
    }


def _reads_equal(tokenizer: Any, metadata: Metadata) -> bool:
    try:
        read = read_tokenizer(GgufFile(Path("the tokenizer"), metadata, {})).tokenizer
    except ModelError:
        return False
    return all(
        read.encode(text, add_special_tokens=False).ids
        == tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        for text in SAMPLES
    )


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")
