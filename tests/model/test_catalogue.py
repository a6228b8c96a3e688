"""The tokenizers and templates of the catalogue, M1 to M9, by id: what sapwood says of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sapwood.config import BaseConfig, LoraConfig, TemplateConfig
from sapwood.errors import ConfigError, DataError, ModelError
from sapwood.model.base import inspect_base, skeleton
from sapwood.model.load import load_base
from sapwood.model.targets import resolve_targets
from sapwood.template.families import choose_template
from sapwood.template.prepare import prepare
from sapwood.template.render import Renderer
from tests.model.tiny import CHATML, tiny_llama, tiny_tokenizer
from tests.template.cases import chat, tiny
from tests.template.real_tokenizers import real_tokenizer


def folder_of(tmp_path: Path) -> Path:
    tiny_llama(tmp_path)
    return tmp_path / "tiny-llama"


def prepared(renderer: Renderer, vocab_rows: int = 99_999) -> Any:
    return prepare([chat("q", "a")], renderer, TemplateConfig(), max_length=256, vocab_rows=vocab_rows)


def m1_no_tokenizer(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match=r"no usable tokenizer.*expected tokenizer\.json"):
        inspect_base(BaseConfig(model=str(folder)))


def m2_ids_beyond_the_embedding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[vocabulary\].*id \d+, but the embedding has 5 rows"):
        prepared(tiny(), vocab_rows=5)


def m3_an_embedding_larger_than_the_vocabulary(tmp_path: Path) -> None:
    spec = inspect_base(BaseConfig(model=str(folder_of(tmp_path))))
    rows = spec.hf_config.vocab_size + 64
    assert prepared(Renderer(spec.tokenizer), vocab_rows=rows).examples


def m4_no_chat_template(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ships no chat template.*gemma-2, llama-2-chat, chatglm3, chatml"):
        choose_template(real_tokenizer("llama2"), "auto")


def m5_bad_templates(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"isn't valid Jinja · template line 2"):
        Renderer(tiny_tokenizer("x\n{% for %}"))
    with pytest.raises(DataError, match=r"refuses this row · data\.json:1 · no thanks"):
        prepared(Renderer(tiny_tokenizer("{{ raise_exception('no thanks') }}")))
    loop = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}"
    with pytest.raises(DataError, match=r"it ran for more than 2 s"):
        Renderer(tiny_tokenizer("{% if messages | length > 2 %}" + loop + "{% endif %}" + CHATML)).render(
            chat("q", "a", "q", "a")
        )


def m6_no_padding_token(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(CHATML)
    tokenizer.pad_token = None
    (example,) = prepared(Renderer(tokenizer)).examples
    assert example.ids[example.trained][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def m7_padding_that_is_the_end(tmp_path: Path) -> None:
    for pad in ("<|im_end|>", "<|endoftext|>"):
        tokenizer = tiny_tokenizer(CHATML)
        tokenizer.pad_token = pad
        (example,) = prepared(Renderer(tokenizer)).examples
        assert example.ids[example.trained][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer = tiny_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}")
    tokenizer.eos_token = None
    with pytest.raises(DataError, match=r"no stop token is known · base\.model"):
        Renderer(tokenizer)


def m8_two_begins_of_text(tmp_path: Path) -> None:
    tokenizer = real_tokenizer("llama2")
    twice = "{{ bos_token }}" + (choose_template(tokenizer, "llama-2-chat") or "")
    with pytest.raises(DataError, match=r"\[double-bos\].*data\.json:1"):
        prepared(Renderer(tokenizer, twice))


def m9_tied_embeddings(tmp_path: Path) -> None:
    """The head, tied or not, is never a target: no adapter can untie it."""
    spec = inspect_base(BaseConfig(model=str(folder_of(tmp_path))))
    with pytest.raises(ConfigError, match="lm_head"):
        resolve_targets(skeleton(spec), ("lm_head",))
    base = load_base(spec, BaseConfig(model=spec.source, storage="fp32"))
    assert LoraConfig().targets == "all-linear"
    assert not any(
        "head" in name or "embed" in name for name in resolve_targets(skeleton(spec), "all-linear")
    )
    assert base.head.weight.shape[0] == spec.hf_config.vocab_size


CASES: dict[str, Callable[[Path], None]] = {
    "M1": m1_no_tokenizer,
    "M2": m2_ids_beyond_the_embedding,
    "M3": m3_an_embedding_larger_than_the_vocabulary,
    "M4": m4_no_chat_template,
    "M5": m5_bad_templates,
    "M6": m6_no_padding_token,
    "M7": m7_padding_that_is_the_end,
    "M8": m8_two_begins_of_text,
    "M9": m9_tied_embeddings,
}


@pytest.mark.parametrize("id", CASES)
def test_case(tmp_path: Path, id: str) -> None:
    CASES[id](tmp_path)


def test_no_id_is_left_out() -> None:
    assert list(CASES) == [f"M{number}" for number in range(1, 10)]
