"""The tokenizer of a model folder, with its chat template."""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sapwood.base.folder import read_json
from sapwood.errors import ConfigError, ModelError, first_line
from sapwood.machine.extras import install
from sapwood.machine.shortage import refuse_shortage
from sapwood.types import BaseSpec

TEMPLATES = ("chat_template.json", "processor_config.json")  # of older wrappers, with the template in them
WORD = "saplings"
# A template that expects a message as a list of parts writes nothing of a message that is plain text.
AS_PARTS = (
    "{%- set whole = namespace(messages=[]) -%}"
    "{%- for message in messages -%}{%- if message.content is string -%}"
    "{%- set message = dict(message, content=[{'type': 'text', 'text': message.content}]) -%}"
    "{%- endif -%}{%- set whole.messages = whole.messages + [message] -%}{%- endfor -%}"
    "{%- set messages = whole.messages -%}"
)

log = logging.getLogger("sapwood.base")


def read_tokenizer_of(path: Path) -> Any:
    """The folder's tokenizer. tokenizer.json is taken as it stands: AutoTokenizer rebuilds the pre-tokenizer
    of some families by model type (for example Qwen2's), whatever the file holds."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    own = path / "tokenizer.json"
    if (path / "tokenizer_config.json").exists():
        read_json(path / "tokenizer_config.json")
    _refuse_sentencepiece(path)
    kind = PreTrainedTokenizerFast if own.is_file() else AutoTokenizer
    # named, because tokenizer_config.json may name a file anywhere else
    files: dict[str, Any] = {"tokenizer_file": str(own)} if own.is_file() else {}
    try:
        tokenizer = kind.from_pretrained(path, local_files_only=True, trust_remote_code=False, **files)
    except Exception as error:  # tokenizers, sentencepiece and transformers each raise their own
        why = "expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt"
        raise ModelError("no usable tokenizer", str(path), f"{why} ({first_line(error)})") from None
    if not tokenizer.is_fast:
        mend = "add the model's tokenizer.json"
        raise ModelError(
            "the model has no tokenizer.json",
            str(path),
            "only this file says which characters each token covers",
            mend,
        )
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _of_processor(path)
    if isinstance(tokenizer.chat_template, str) and _wants_parts(tokenizer):
        tokenizer.chat_template = AS_PARTS + tokenizer.chat_template
    return tokenizer


def with_new_tokens(spec: BaseSpec, tokens: Sequence[str]) -> BaseSpec:
    """``spec`` with a tokenizer that knows ``tokens`` too. Raises ConfigError for one that it has already."""
    if not tokens:
        return spec
    from tokenizers import AddedToken

    known = spec.tokenizer.get_vocab()
    if old := sorted(token for token in tokens if token in known or not token.strip()):
        why = f"{old[0]!r} is a token of {spec.source} already, or blank"
        raise ConfigError("base.new_tokens names no new token", "base.new_tokens", why, "leave it out")
    pieces = [tuple(spec.tokenizer(token, add_special_tokens=False)["input_ids"]) for token in tokens]
    tokenizer = copy.deepcopy(spec.tokenizer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in dict.fromkeys(tokens)])
    ids = [int(tokenizer.convert_tokens_to_ids(token)) for token in tokens]
    return replace(spec, tokenizer=tokenizer, new_tokens=dict(zip(ids, pieces, strict=True)))


def _of_processor(path: Path) -> str | None:
    """The template that stands in a processor's file."""
    files = (path / name for name in TEMPLATES)
    found = (read_json(file).get("chat_template") for file in files if file.is_file())
    return next((text for text in found if isinstance(text, str)), None)


def _wants_parts(tokenizer: Any) -> bool:
    """Does the template show what a message says only if that is a list of parts?"""
    parts = [{"type": "text", "text": WORD}]
    return not _shows(tokenizer, WORD) and _shows(tokenizer, parts)


def _shows(tokenizer: Any, content: Any) -> bool:
    try:
        text: Any = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except Exception as error:  # whatever a template raises
        refuse_shortage(error, "the chat template was tried")
        return False
    return WORD in text


def _refuse_sentencepiece(path: Path) -> None:
    """Raises ModelError for ``tokenizer.model`` alone if nothing here can read it."""
    others = ("tokenizer.json", "vocab.json")
    if not (path / "tokenizer.model").is_file() or any((path / name).is_file() for name in others):
        return
    needed = ("sentencepiece", "google.protobuf")
    if lost := [name for name in needed if not _installed(name)]:
        why = f"the folder has tokenizer.model alone, and {' and '.join(lost)} isn't installed to read it"
        raise ModelError("no usable tokenizer", str(path), why, install("sentencepiece"))


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def check_vocabulary(tokenizer: Any, rows: int, path: Path) -> None:
    """Every id that the tokenizer can give must have a row in the embedding. Added tokens without one, as
    Gemma 3's folders have for pictures, are told to the user. The proof refuses a row of data that uses
    one."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if not vocabulary:
        raise ModelError("the tokenizer has no tokens", str(path), mend="copy its files from the model again")
    rowless = {token: id for token, id in vocabulary.items() if id >= rows}
    token, highest = max(rowless.items(), key=lambda item: item[1], default=("", -1))
    why = f"token {token!r} has the id {highest:,}, the embedding has {rows:,} rows"
    if rowless.keys() - tokenizer.get_added_vocab().keys():
        raise ModelError("the tokenizer doesn't fit the model", str(path), why)
    if rowless:
        log.warning("%s: %s; text that contains it is refused", path, why)
