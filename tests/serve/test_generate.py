"""Answers: streamed equals batched equals transformers' own; and the model is given back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.model import LoraModel
from sapwood.base.network.parts import text_class
from sapwood.base.tiny import tiny_model as tiny_of
from sapwood.base.tiny import tiny_network
from sapwood.compute.attention.seam import is_packed, register
from sapwood.compute.backend import REFERENCE
from sapwood.config.sections import LoraConfig
from sapwood.errors import ConfigError, NumericsError
from sapwood.machine.device import CPU
from sapwood.serve.generate import Answer, Settings, answer_batch, generation_attention, stream
from sapwood.serve.rows import joins
from sapwood.serve.session import drain
from sapwood.types import Base, BaseSpec, Head
from tests.base.tiny import ARCHITECTURES, tiny_model, tiny_tokenizer
from tests.train.plain import likeliest

TOKENIZER = tiny_tokenizer()
TEXTS = (
    "Why are the leaves of my pear turning yellow?",
    "Plant it.",
    "When should I plant an apple tree, and how deep does the hole have to be? Tell me all about it, please.",
    "你是谁",
    "Prune in winter while the tree sleeps.",
)
PROMPTS = [TOKENIZER.encode(text) for text in TEXTS]


def streamed(model: Any, prompt: list[int], stops: tuple[int, ...], settings: Settings) -> Answer:
    return drain(stream(model, TOKENIZER, prompt, stops, settings))


def stopping_model(arch: str, strength: float) -> Any:
    """A random model with a bias towards the stop token: its answers end, and at different lengths."""
    model = tiny_model(arch, tie_word_embeddings=False)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(600))
    model.lm_head.bias.data[2] = strength
    return model


def lora_model(arch: str = "llama") -> LoraModel:
    base = tiny_model(arch)
    spec = BaseSpec("tiny", None, "f" * 64, TOKENIZER, base.config, (2,))  # type: ignore[arg-type]
    model = attach_lora(
        Base(spec, base, base.model, Head(base.lm_head.weight), "fp32", CPU), LoraConfig(rank=4)
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.parameters.items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_batch_gives_the_answers_of_one_prompt_at_a_time(arch: str) -> None:
    model = stopping_model(arch, 2.0 if arch.startswith("gemma") else 1.2)
    settings = Settings(max_new_tokens=48)  # longer than the sliding window of 32
    alone = [streamed(model, prompt, (2,), settings) for prompt in PROMPTS]
    together = answer_batch(model, TOKENIZER, PROMPTS, (2,), settings, batch_size=3)
    assert [a.ids for a in together] == [a.ids for a in alone]
    assert [(a.text, a.stopped, a.prompt_tokens) for a in together] == [
        (a.text, a.stopped, a.prompt_tokens) for a in alone
    ]
    assert len({len(a.ids) for a in alone}) > 1, "rows should leave the batch at different times"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_all_prompts_begin_with_is_read_once(arch: str) -> None:
    model, settings = tiny_model(arch), Settings(max_new_tokens=48)
    lead = [7, 8, 9] * 5
    prompts = [lead + prompt for prompt in PROMPTS] + [lead]
    read: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0].shape))
    together = answer_batch(model, TOKENIZER, prompts, (), settings)
    windows = any(kind == "sliding_attention" for kind in getattr(model.config, "layer_types", None) or ())
    count, longest = len(prompts), max(map(len, prompts))
    wanted = [(count, longest)] if windows else [(1, 14), (count, longest - 14)]
    assert [shape for shape in read if shape[1] > 1] == wanted
    assert [a.ids for a in together] == [streamed(model, prompt, (), settings).ids for prompt in prompts]


def test_long_prompts_share_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings, read = tiny_model(), Settings(max_new_tokens=4), list[int]()
    model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0].numel()))
    whole = answer_batch(model, TOKENIZER, PROMPTS, (), settings)
    longest = max(map(len, PROMPTS))
    assert max(read) == len(PROMPTS) * longest
    monkeypatch.setattr("sapwood.serve.generate.TOGETHER", 2 * (longest + 4))
    read.clear()
    parts = answer_batch(model, TOKENIZER, PROMPTS, (), settings)
    assert max(read) == 2 * longest and [a.ids for a in parts] == [a.ids for a in whole]


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_greedy_answers_equal_those_of_transformers(arch: str) -> None:
    model = tiny_model(arch)
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        wanted = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, eos_token_id=None
        )
        assert (
            list(streamed(model, prompt, (), Settings(max_new_tokens=40)).ids)
            == wanted[0, len(prompt) :].tolist()
        )


def test_an_answer_stops_before_the_stop_token() -> None:
    answer = streamed(stopping_model("llama", 1e4), PROMPTS[0], (2,), Settings())
    assert answer.stopped and answer.ids == () and answer.text == ""


def test_an_answer_that_does_not_stop_is_cut() -> None:
    model = stopping_model("llama", -1e4)
    for answer in (
        streamed(model, PROMPTS[0], (2,), Settings(max_new_tokens=7)),
        *answer_batch(model, TOKENIZER, PROMPTS, (2,), Settings(max_new_tokens=7)),
    ):
        assert not answer.stopped and len(answer.ids) == 7 and answer.seconds > 0


def test_answers_end_where_the_context_ends() -> None:
    model = tiny_model("llama", max_position_embeddings=40)
    answers = answer_batch(model, TOKENIZER, PROMPTS[:2], (), Settings())
    assert [a.prompt_tokens + len(a.ids) for a in answers] == [40, 40]


def test_a_prompt_that_fills_the_context_is_refused_before_anything_runs() -> None:
    model = tiny_model("llama", max_position_embeddings=8)
    with pytest.raises(ConfigError, match=r"the model holds 8"):
        answer_batch(model, TOKENIZER, PROMPTS, (), Settings())
    with pytest.raises(ConfigError, match=r"tokens · prompt"):
        drain(stream(model, TOKENIZER, PROMPTS[0], (), Settings()))
    with pytest.raises(ValueError, match="at least one token"):
        answer_batch(model, TOKENIZER, [[]], (), Settings())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("minimax", {}),  # a cache of its own
        ("lfm2", {"layer_types": ["conv"] * 2 + ["full_attention"] + ["conv"] * 29}),
        ("inkling2", {}),  # states beside keys and values
        ("camembert", {"is_decoder": True}),  # it counts positions itself
    ],
)
def test_a_model_that_takes_no_padding_answers_in_a_batch_as_alone(
    kind: str, values: dict[str, Any], tmp_path: Path
) -> None:
    """And goes on when one of the rows is done."""
    config = CONFIG_MAPPING[kind](**values, bos_token_id=0, eos_token_id=2, pad_token_id=0)
    made: Any = text_class(tiny_of(config, tmp_path, 600))
    model = made.from_pretrained(tmp_path, dtype=torch.float32).eval()
    prompts = [[5, 80, 300, 41, 7], [7]]
    wanted = [likeliest(model, prompt, 6) for prompt in prompts]
    stop = next(id for id in wanted[0][1:] if id not in wanted[1])
    answers = answer_batch(model, TOKENIZER, prompts, (stop,), Settings(max_new_tokens=6))
    assert [list(answer.ids) for answer in answers] == [wanted[0][: wanted[0].index(stop)], wanted[1]]


def test_whether_rows_can_join_is_asked_of_the_model() -> None:
    assert all(joins(tiny_model(arch)) for arch in ("llama", "gemma2", "gemma3", "qwen3moe"))
    assert not joins(tiny_network(CONFIG_MAPPING["mamba"]()))


def test_no_prompts_give_no_answers() -> None:
    assert answer_batch(tiny_model(), TOKENIZER, [], (2,), Settings()) == []


def test_pieces_come_as_they_are_written_and_join_to_the_text() -> None:
    model, forwards = tiny_model(), []
    model.register_forward_hook(lambda *_: forwards.append(1))
    answering = stream(model, TOKENIZER, PROMPTS[0], (), Settings(max_new_tokens=20))
    first = next(answering)
    assert 1 <= len(forwards) < 20
    rest: list[str] = []
    answer = drain(answering, rest.append)
    assert first + "".join(rest) == answer.text == TOKENIZER.decode(answer.ids, skip_special_tokens=True)


def test_sampling_depends_on_seed_and_index_and_not_on_the_neighbours() -> None:
    model = tiny_model()
    settings = Settings(max_new_tokens=12, temperature=1.0, seed=5)
    together = answer_batch(model, TOKENIZER, PROMPTS, (), settings, batch_size=5)
    by_two = answer_batch(model, TOKENIZER, PROMPTS, (), settings, batch_size=2)
    assert [a.ids for a in together] == [a.ids for a in by_two]
    twice = answer_batch(model, TOKENIZER, [PROMPTS[0]] * 2, (), settings)
    assert twice[0].ids != twice[1].ids
    assert twice[0].ids == together[0].ids == streamed(model, PROMPTS[0], (), settings).ids
    other = Settings(max_new_tokens=12, temperature=1.0, seed=6)
    assert streamed(model, PROMPTS[0], (), other).ids != twice[0].ids


def test_generation_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    answer_batch(tiny_model(), TOKENIZER, PROMPTS[:1], (), Settings(max_new_tokens=4, temperature=1.0))
    assert torch.equal(before, torch.get_rng_state())


def test_the_training_kernel_and_train_mode_come_back() -> None:
    model = lora_model()
    network = model.peft.get_base_model()
    network.set_attn_implementation(register(REFERENCE))
    model.peft.train()
    network.model.norm.eval()  # a mode of its own
    modes = [module.training for module in model.peft.modules()]
    answering = stream(model.peft, TOKENIZER, PROMPTS[0], (2,), Settings(max_new_tokens=8))
    next(answering)
    assert network.config._attn_implementation == "sdpa" and not model.peft.training
    assert torch.is_grad_enabled(), "no_grad must not reach into the consumer's code"
    answering.close()
    assert is_packed(network.config._attn_implementation)
    assert [module.training for module in model.peft.modules()] == modes
    with pytest.raises(RuntimeError, match="boom"), generation_attention(model.peft):
        raise RuntimeError("boom")
    assert is_packed(network.config._attn_implementation)
    assert [module.training for module in model.peft.modules()] == modes


def test_soft_capped_attention_falls_back_to_the_models_own() -> None:
    model = tiny_model("gemma2")
    wanted = streamed(model, PROMPTS[0], (), Settings(max_new_tokens=8)).ids
    model.set_attn_implementation(register(REFERENCE))
    with generation_attention(model):
        assert model.config._attn_implementation == "eager"
    assert streamed(model, PROMPTS[0], (), Settings(max_new_tokens=8)).ids == wanted
    assert is_packed(model.config._attn_implementation)


def test_an_implementation_that_is_not_the_training_kernel_stays() -> None:
    model = tiny_model()
    model.set_attn_implementation("eager")
    with generation_attention(model):
        assert model.config._attn_implementation == "eager"


def test_training_goes_on_after_generation() -> None:
    model = lora_model()
    answer_batch(model.peft, TOKENIZER, PROMPTS, (2,), Settings(max_new_tokens=8))
    model.peft.train()
    model.peft(input_ids=torch.tensor([PROMPTS[0]]), labels=torch.tensor([PROMPTS[0]])).loss.backward()
    for parameter in model.parameters.values():
        assert not parameter.is_inference() and parameter.grad is not None


def test_the_adapter_is_heard_in_batches_as_alone() -> None:
    model = lora_model()
    settings = Settings(max_new_tokens=24)
    tuned = answer_batch(model.peft, TOKENIZER, PROMPTS, (2,), settings)
    assert [a.ids for a in tuned] == [streamed(model.peft, p, (2,), settings).ids for p in PROMPTS]
    with model.peft.disable_adapter():
        base = answer_batch(model.peft, TOKENIZER, PROMPTS, (2,), settings)
    assert [a.ids for a in base] != [a.ids for a in tuned]
    assert [a.ids for a in base] == [
        a.ids for a in answer_batch(tiny_model(), TOKENIZER, PROMPTS, (2,), settings)
    ]


def test_an_output_that_is_not_a_number_is_an_error() -> None:
    model = tiny_model()
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NumericsError, match=r"base\.storage=fp32"):
        answer_batch(model, TOKENIZER, PROMPTS, (2,), Settings())


def test_the_head_sees_one_contiguous_column() -> None:
    """Of a slice that isn't contiguous, PyTorch's product copies the head's weight once for each row."""
    model, seen = tiny_model(), []
    answer_batch(model, TOKENIZER, PROMPTS, (), Settings(max_new_tokens=1))  # it is asked about caches once
    model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    answer_batch(model, TOKENIZER, PROMPTS, (), Settings(max_new_tokens=3))
    assert [tuple(x.shape) for x in seen] == [(5, 1, 64)] * 3
    assert all(x.is_contiguous() for x in seen)
