"""Answers by llama.cpp are torch's; torch writes those of what llama.cpp can't hold or doesn't finish."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sapwood import Stop, finetune, parse_config, resume
from sapwood.answers import files, fit
from sapwood.answers.speaker import SLOTS, speaking
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.engine.ask import Asked
from sapwood.errors import ConfigError, Stopped
from sapwood.run.query import read_samples
from sapwood.serve.generate import Settings, answer_batch
from sapwood.serve.load import Loaded, open_adapter
from sapwood.serve.settings import Answer
from sapwood.types import Event, Message, Stepped
from tests.base.tiny import tiny_llama
from tests.endpoint.serving import make_adapter

HELD = BaseConfig(model="tiny", storage="fp32")
COUNT = int(os.environ.get("SAPWOOD_ANSWERS", "40"))  # prompts whose answers are compared
TOPICS = ("apple tree", "pear", "梨树", "oak", "soil", "frost", "graft", "water", "moss", "walnut")


@pytest.fixture(autouse=True)
def worthwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tiny models and dense ones are as worthwhile as others, and the cache is the test's own."""
    monkeypatch.setattr(fit, "LEAST", 0)
    monkeypatch.setattr(fit, "QUICK", ())
    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A tiny model whose weights are numbers of F16, as those of a file in F16 are."""
    return rounded(open_adapter(adapter_in(tmp_path_factory.mktemp("answers")), "tiny"))


def adapter_in(folder: Path, lora: LoraConfig | None = None) -> Path:
    given = {} if lora is None else {"lora": lora}
    return make_adapter(tiny_llama(folder), folder / "adapter", 7, strength=0.1, **given)


def rounded(loaded: Loaded) -> Loaded:
    with torch.no_grad():
        for parameter in loaded.base.model.parameters():
            if not parameter.requires_grad:
                parameter.copy_(parameter.half().float())
    return loaded


def prompts_for(loaded: Loaded, count: int) -> list[list[int]]:
    texts = [f"Question {i}: what do you know about {TOPICS[i % len(TOPICS)]}?" for i in range(count)]
    return [loaded.renderer.prompt_ids([Message("user", text)]) for text in texts]


def by_torch(loaded: Loaded, prompts: Sequence[Sequence[int]], settings: Settings) -> list[Answer]:
    stops = loaded.renderer.stop_ids
    return answer_batch(loaded.network, loaded.tokenizer, prompts, stops, settings)


def test_the_tokens_are_those_of_torch_with_the_adapter_and_without(loaded: Loaded) -> None:
    prompts, settings = prompts_for(loaded, COUNT), Settings(max_new_tokens=20)
    with speaking(loaded, HELD, prompts, settings) as speaker:
        assert speaker.kind == "llama.cpp"
        tuned, base = speaker.answers("the adapter"), speaker.answers("the base", base=True)
        again = speaker.answers("the adapter")
    with loaded.without_adapter():
        plain = by_torch(loaded, prompts, settings)
    for found, wanted in ((tuned, by_torch(loaded, prompts, settings)), (base, plain)):
        same = [ours.ids == theirs.ids for ours, theirs in zip(found, wanted, strict=True)]
        assert sum(same) >= 0.95 * COUNT
        pairs = [pair for pair, equal in zip(zip(found, wanted, strict=True), same, strict=True) if equal]
        assert all((x.text, x.stopped, x.num_tokens) == (y.text, y.stopped, y.num_tokens) for x, y in pairs)
        assert all(one.prompt_tokens == len(ids) for one, ids in zip(found, prompts, strict=True))
    assert [one.ids for one in tuned] == [one.ids for one in again], "what one computed serves no other"
    assert [one.ids for one in tuned] != [one.ids for one in base]
    assert COUNT > SLOTS, "some wait for a slot"


def test_the_base_is_written_once_and_again_if_it_was_changed(loaded: Loaded) -> None:
    prompts, settings = prompts_for(loaded, 2), Settings(max_new_tokens=3)

    def answer() -> list[Answer]:
        with speaking(loaded, HELD, prompts, settings) as speaker:
            assert speaker.kind == "llama.cpp"
            return speaker.answers("the adapter")

    first = answer()
    (file,) = (files.cache_dir() / "serve").glob("*.gguf")
    before = file.stat().st_mtime_ns
    answer()
    assert file.stat().st_mtime_ns == before
    file.write_bytes(file.read_bytes()[:-64])
    assert [one.ids for one in answer()] == [one.ids for one in first]


def test_a_prompt_that_fills_the_model_is_refused_and_one_beside_its_end_is_cut(loaded: Loaded) -> None:
    longest = loaded.base.spec.hf_config.max_position_embeddings
    with (
        pytest.raises(ConfigError, match="answer included"),
        speaking(loaded, HELD, [[5] * longest], Settings(max_new_tokens=3)),
    ):
        pass
    prompts, settings = [[5] * (longest - 2), [5, 6, 7]], Settings(max_new_tokens=6)
    with speaking(loaded, HELD, prompts, settings) as speaker:
        found = speaker.answers("the adapter")
        assert speaker.kind == "llama.cpp"
    assert [one.num_tokens for one in found] == [
        one.num_tokens for one in by_torch(loaded, prompts, settings)
    ]


def test_torch_answers_what_llama_cpp_cannot_hold(tmp_path: Path) -> None:
    dora = open_adapter(adapter_in(tmp_path, LoraConfig(rank=2, method="dora")), "tiny")
    prompts, settings = prompts_for(dora, 3), Settings(max_new_tokens=4)
    with speaking(dora, HELD, prompts, settings) as speaker:
        assert speaker.kind == "torch"
        assert [one.ids for one in speaker.answers("it")] == [
            one.ids for one in by_torch(dora, prompts, settings)
        ]


@pytest.mark.parametrize("why", ["small", "missing", "unknown", "dense"])
def test_torch_answers_where_llama_cpp_is_not_worth_it_or_not_there(
    why: str, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "small":
        monkeypatch.setattr(fit, "LEAST", 10**9)
    if why == "dense":
        if not loaded.base.device.compiled:
            pytest.skip("no compiled kernels here")
        monkeypatch.setattr(fit, "QUICK", ("fp32",))
        spec, device = loaded.base.spec, loaded.base.device
        assert fit.why_not_many(spec, HELD, device) and not fit.why_not(spec, HELD, device), (
            "chat asks for one"
        )
    if why == "missing":
        monkeypatch.setattr(fit, "find_spec", lambda name: None)
    held = None if why == "unknown" else HELD
    with speaking(loaded, held, prompts_for(loaded, 1), Settings(max_new_tokens=2)) as speaker:
        assert speaker.kind == "torch"
        assert len(speaker.answers("it")) == 1


def test_torch_goes_on_where_llama_cpp_ends(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def die(self: Asked, *_: object, **__: object) -> None:
        self._process.stop(0)  # pyright: ignore[reportPrivateUsage]
        self.tokenize("a")

    monkeypatch.setattr(Asked, "answers", die)
    prompts, settings = prompts_for(loaded, 2), Settings(max_new_tokens=4)
    with caplog.at_level(logging.WARNING), speaking(loaded, HELD, prompts, settings) as speaker:
        found = speaker.answers("it")
        assert speaker.kind == "torch" and "torch does, slower" in caplog.text
    assert [one.ids for one in found] == [one.ids for one in by_torch(loaded, prompts, settings)]


def test_a_base_in_4_bits_is_unpacked_once_for_the_answers(tmp_path: Path) -> None:
    from sapwood.serve.load import find_target, load_found

    adapter = adapter_in(tmp_path)
    facts = json.loads((adapter / "sapwood.json").read_text())
    (adapter / "sapwood.json").write_text(json.dumps(facts | {"storage": "nf4", "compute_dtype": "fp32"}))
    found = find_target(str(adapter), tmp_path)
    packed = load_found(found)
    assert packed.base.storage == "nf4"
    prompts, settings = prompts_for(packed, 12), Settings(max_new_tokens=12)
    with speaking(packed, found.held, prompts, settings) as speaker:
        assert speaker.kind == "llama.cpp"
        told = speaker.answers("the adapter")
    wanted = by_torch(packed, prompts, settings)
    assert sum(x.ids == y.ids for x, y in zip(told, wanted, strict=True)) >= 10


def test_a_resumed_run_has_the_samples_of_an_undisturbed_one(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path)
    rows = (json.dumps({"prompt": f"Tree {i}?", "completion": f"Water tree {i} well."}) for i in range(30))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))

    def config(runs: str) -> object:
        return parse_config(
            {
                "base": {"model": str(model), "storage": "fp32"},
                "data": {"train": str(tmp_path / "rows.jsonl"), "eval": 6},
                "train": {"max_steps": 4, "batch_size": 4, "lr": 0.02, "threads": 1},
                "eval": {"every": 2, "samples": 5, "max_new_tokens": 12, "best": "chrf"},
                "save": {"every": 1, "dir": str(tmp_path / runs)},
            }
        )

    def stop(event: Event) -> Stop | None:
        return Stop() if isinstance(event, Stepped) and event.step == 1 else None

    whole = finetune(config("whole")).path.parent  # type: ignore[arg-type]
    with pytest.raises(Stopped):
        finetune(config("parts"), stop)  # type: ignore[arg-type]
    (parts,) = (tmp_path / "parts").iterdir()
    assert json.loads((parts / "run.json").read_text())["facts"]["answers"].startswith("llama.cpp ")
    resume(parts)
    assert read_samples(parts) == read_samples(whole) and len(read_samples(whole)) == 15
    name = "adapter/adapter_model.safetensors"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()
