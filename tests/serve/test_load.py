"""What a person can name, and that an adapter is refused on anything but what it was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sapwood.adapter.files import write_adapter
from sapwood.base import load as load_module
from sapwood.base.load import load_base
from sapwood.config.file import dump_config
from sapwood.config.sections import BaseConfig, DataConfig, RunConfig
from sapwood.errors import ConfigError, DataError, ModelError, StorageError
from sapwood.machine.device import Device
from sapwood.run.files import staged_dir
from sapwood.run.store import open_run
from sapwood.serve.load import Loaded, open_target
from tests.base.tiny import tiny_llama
from tests.gguf.tiny_gguf import tiny_gguf
from tests.serve.tiny_chat import LORA, SYSTEM, tiny_adapter, tuned

IDS = torch.tensor([[5, 80, 300, 41]])


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(IDS).logits


def edit(path: Path, **changes: Any) -> None:
    tree = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in tree.items() if v != "gone"}), encoding="utf-8")


def unfinished_run(folder: Path, steps: tuple[int, ...] = (5, 10)) -> Path:
    """A run with checkpoints and no adapter yet; every weight of step N is N / 1000."""
    model, facts = tuned(tiny_llama(folder))
    config = RunConfig(
        name="mine",
        data=DataConfig(train=("x.json",), system=SYSTEM),
        base=BaseConfig(model=facts["base"], storage="fp32"),
        lora=LORA,
    )
    keys = ("base", "base_fingerprint", "template_fingerprint", "stop_ids")
    with open_run(
        folder / "runs", name="mine", config_yaml=dump_config(config), facts={key: facts[key] for key in keys}
    ) as run:
        for step in steps:
            with torch.no_grad():
                for parameter in model.parameters.values():
                    parameter.fill_(step / 1000)
            with staged_dir(run.path / "checkpoints" / f"step-{step:06d}") as stage:
                write_adapter(model, stage)
        return run.path


def first_weight(loaded: Loaded) -> float:
    assert loaded.model is not None
    return next(iter(loaded.model.parameters.values())).flatten()[0].item()


def test_an_adapter_opens_as_it_was_trained(tmp_path: Path) -> None:
    folder = tiny_adapter(tmp_path)
    loaded = open_target(str(folder), tmp_path / "runs")
    model, _ = tuned(tmp_path / "tiny-llama")
    assert torch.equal(logits(loaded.network), logits(model.peft))
    assert loaded.system == SYSTEM and loaded.name == str(folder) and loaded.base.storage == "fp32"
    assert loaded.renderer.stop_ids == (2,)


def test_it_answers_as_plain_peft_does(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = tiny_adapter(tmp_path)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "tiny-llama"), folder)
    ours = open_target(str(folder), tmp_path).network
    torch.testing.assert_close(logits(ours), logits(plain), atol=1e-5, rtol=1e-5)


def test_without_adapter_is_the_base_and_comes_back(tmp_path: Path) -> None:
    loaded = open_target(str(tiny_adapter(tmp_path)), tmp_path)
    spec = loaded.base.spec
    base = logits(load_base(spec, BaseConfig(model=spec.source, storage="fp32")).model)
    tuned_logits = logits(loaded.network)
    with pytest.raises(RuntimeError, match="boom"), loaded.without_adapter():
        assert torch.equal(logits(loaded.network), base)
        raise RuntimeError("boom")
    assert torch.equal(logits(loaded.network), tuned_logits) and not torch.equal(tuned_logits, base)


def test_a_base_is_opened_by_its_folder(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path)
    loaded = open_target(str(folder), tmp_path / "runs")
    assert loaded.model is None and loaded.network is loaded.base.model and loaded.system is None
    with loaded.without_adapter():
        assert torch.isfinite(logits(loaded.network)).all()


def test_a_model_too_large_for_the_gpu_says_how_to_take_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(load_module, "move", full)
    with pytest.raises(ModelError, match=r"doesn't fit on the GPU .*2 GiB.* CUDA_VISIBLE_DEVICES= "):
        load_module.place(torch.nn.Linear(1, 1), Device("cuda"))


def test_a_gguf_file_is_one_whatever_it_is_called(tmp_path: Path) -> None:
    """Ollama keeps models as sha256-… without an ending."""
    blob = tmp_path / "sha256-0a1b2c"
    tiny_gguf("llama", blob)
    assert torch.isfinite(logits(open_target(str(blob), tmp_path).network)).all()


def test_an_unknown_base_is_named_by_its_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no built-in model 'nothing'"):
        open_target("builtin:nothing", tmp_path)


@pytest.mark.parametrize("name", ["last", "mine", "path"])
def test_an_unfinished_run_gives_its_newest_checkpoint(tmp_path: Path, name: str) -> None:
    run = unfinished_run(tmp_path)
    loaded = open_target(str(run) if name == "path" else name, tmp_path / "runs")
    assert first_weight(loaded) == pytest.approx(0.010)
    assert loaded.system == SYSTEM and loaded.name == f"{run.name} step-000010"


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    run = unfinished_run(tmp_path)
    weights = run / "checkpoints" / "step-000010" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert first_weight(open_target("mine", tmp_path / "runs")) == pytest.approx(0.005)
    (run / "checkpoints" / "step-000005" / "adapter_config.json").unlink()
    with pytest.raises(StorageError, match="adapter_model"):
        open_target("mine", tmp_path / "runs")


def test_a_finished_run_gives_its_adapter(tmp_path: Path) -> None:
    run = unfinished_run(tmp_path)
    model, facts = tuned(tmp_path / "tiny-llama")
    with staged_dir(run / "adapter") as stage:
        write_adapter(model, stage)
        (stage / "sapwood.json").write_text(json.dumps(facts), encoding="utf-8")
    loaded = open_target(run.name[:15], tmp_path / "runs")
    assert torch.equal(logits(loaded.network), logits(model.peft)) and loaded.name == run.name
    (run / "adapter" / "sapwood.json").write_text(json.dumps(facts | {"system": "other"}), encoding="utf-8")
    with pytest.raises(StorageError, match=r"sapwood\.json"):
        open_target(run.name, tmp_path / "runs")


def test_a_run_that_saved_nothing_says_so(tmp_path: Path) -> None:
    run = unfinished_run(tmp_path, steps=())
    with pytest.raises(ModelError, match="sapwood resume"):
        open_target(run.name, tmp_path / "runs")


def test_an_unknown_name_lists_the_nearest(tmp_path: Path) -> None:
    unfinished_run(tmp_path, steps=())
    with pytest.raises(ConfigError, match="did you mean mine"):
        open_target("mien", tmp_path / "runs")


def test_another_base_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    folder = tiny_adapter(tmp_path)
    was = json.loads((folder / "sapwood.json").read_text())["base_fingerprint"]
    tiny_llama(tmp_path, seed=1)
    with pytest.raises(ModelError, match="not the base") as caught:
        open_target(str(folder), tmp_path)
    now = open_target(str(tmp_path / "tiny-llama"), tmp_path).base.spec.fingerprint
    assert (
        was in str(caught.value)
        and now in str(caught.value)
        and "put the original weights back" in str(caught.value)
    )


def test_another_template_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    folder = tiny_adapter(tmp_path)
    template = tmp_path / "tiny-llama" / "chat_template.jinja"
    template.write_text(template.read_text().replace("user", "USER") + " ", encoding="utf-8")
    with pytest.raises(ModelError, match="not the one that this adapter was trained with") as caught:
        open_target(str(folder), tmp_path)
    was = json.loads((folder / "sapwood.json").read_text())["template_fingerprint"]
    now = open_target(str(tmp_path / "tiny-llama"), tmp_path).renderer.fingerprint
    assert was in str(caught.value) and now in str(caught.value) and was != now


def test_a_template_that_asks_for_the_date_is_told_that_of_the_training(tmp_path: Path) -> None:
    folder = tiny_adapter(tmp_path)
    template = tmp_path / "tiny-llama" / "chat_template.jinja"
    template.write_text("{{ strftime_now('%Y') }}" + template.read_text(), encoding="utf-8")
    from datetime import datetime

    from sapwood.template.render import Renderer

    clock = datetime.fromisoformat("1987-10-16T03:00:00+00:00")
    base = open_target(str(tmp_path / "tiny-llama"), tmp_path)
    then = Renderer(base.tokenizer, None, base.base.spec.stop_ids, clock).fingerprint
    edit(folder / "sapwood.json", proof={"clock": clock.isoformat()}, template_fingerprint=then)
    assert open_target(str(folder), tmp_path).renderer.clock == clock


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "its format is 2, this sapwood reads 1"),
        ({"base": "gone"}, "base is missing"),
        ({"base_fingerprint": ""}, "base_fingerprint is missing"),
        ({"system": 7}, "system is no text"),
        ({"storage": "fp7"}, "fp7"),
        ({"proof": {"clock": "yesterday"}}, "yesterday"),
    ],
)
def test_damaged_facts_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = tiny_adapter(tmp_path)
    edit(folder / "sapwood.json", **changes)
    with pytest.raises(ModelError, match=message) as caught:
        open_target(str(folder), tmp_path)
    assert "sapwood.json" in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_facts_that_are_no_object_are_refused(tmp_path: Path, content: str) -> None:
    folder = tiny_adapter(tmp_path)
    (folder / "sapwood.json").write_text(content)
    with pytest.raises(ModelError, match=r"sapwood\.json"):
        open_target(str(folder), tmp_path)


def test_an_adapter_of_unknown_origin_is_refused(tmp_path: Path) -> None:
    folder = tiny_adapter(tmp_path)
    (folder / "sapwood.json").unlink()
    edit(folder / "adapter_config.json", base_model_name_or_path="/nowhere/gone")
    with pytest.raises(ModelError, match=r"names /nowhere/gone; .* --base MODEL"):
        open_target(str(folder), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "lora_magnitude_vector is missing"),
        ({"lora_bias": True}, r"lora_B.bias is missing"),
        (
            {"rank_pattern": {"q_proj": 2}},
            r"q_proj.lora_A.weight is \[4, 64\]; the model has \[2, 64\]",
        ),
        ({"rank_pattern": {"q_proj": 4096}}, "the config says rank 4096"),
        ({"r": "gone"}, "the config says r: 8"),
        ({"r": 0}, "r: 0"),
        ({"r": 8}, "lora_A"),
        ({"target_modules": None}, "is not part of this model"),
    ],
)
def test_an_adapter_in_a_form_that_cannot_be_applied_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = tiny_adapter(tmp_path)
    edit(folder / "adapter_config.json", **changes)
    with pytest.raises(ModelError, match=message):
        open_target(str(folder), tmp_path)


def test_a_template_by_name_is_looked_up_again(tmp_path: Path) -> None:
    folder = tiny_adapter(tmp_path)
    edit(folder / "sapwood.json", template_name="nothing")
    with pytest.raises(DataError, match="nothing"):
        open_target(str(folder), tmp_path)
