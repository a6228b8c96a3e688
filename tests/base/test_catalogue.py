"""The models and adapters of the catalogue, M1 to M27, by id: what sapwood says of each."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sapwood import finetune
from sapwood.adapter.files import read_adapter
from sapwood.adapter.targets import resolve_targets
from sapwood.base.inspect import inspect_base, skeleton
from sapwood.base.load import load_base
from sapwood.config.sections import BaseConfig, LoraConfig, TemplateConfig
from sapwood.errors import ConfigError, DataError, ModelError
from sapwood.prepare.report import prepare
from sapwood.run.query import list_runs
from sapwood.serve.load import open_target
from sapwood.template.families import choose_template
from sapwood.template.render import Renderer
from tests.base.hostile import FOLDER, GGUF, SAFETENSORS, lay_out
from tests.base.tiny import CHATML, tiny_llama, tiny_tokenizer
from tests.forks import exit_code
from tests.template.cases import chat, tiny
from tests.template.real_tokenizers import real_tokenizer
from tests.test_pipeline import make_config


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
    with pytest.raises(DataError, match=r"it ran for more than 2 s|it took more than 1,000 MB"):
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


def m10_more_layers_than_the_file(tmp_path: Path) -> None:
    refused(tmp_path, "config: one layer more than the weights")


def m11_another_vocabulary(tmp_path: Path) -> None:
    """More rows than the tokenizer has tokens, and not those of the weights."""
    folder = folder_of(tmp_path)
    edit(folder / "config.json", vocab_size=608, num_hidden_layers=1)  # fewer weights, so the sum fits
    spec = inspect_base(BaseConfig(model=str(folder)))
    said = r"model\.embed_tokens\.weight has another shape.*has \[600, 64\], the config asks for \[608, 64\]"
    with pytest.raises(ModelError, match=said):
        load_base(spec, BaseConfig(model=spec.source, storage="fp32"))


def m12_missing_shards(tmp_path: Path) -> None:
    refused(tmp_path, "index: a shard that is missing")


def m13_a_shard_outside(tmp_path: Path) -> None:
    refused(tmp_path, f"index: a shard called {'../outside/model.safetensors'!r}")


def m14_damaged_weights(tmp_path: Path) -> None:
    """Cut, empty: named. Flipped bits are seen where a hash is known: by every run that recorded one."""
    refused(tmp_path, "weights: cut by one byte")
    folder = folder_of(tmp_path)
    weights = folder / "model.safetensors"
    before = inspect_base(BaseConfig(model=str(folder))).fingerprint
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(0, 0))  # hashes are remembered by size and time
    assert inspect_base(BaseConfig(model=str(folder))).fingerprint != before


def m15_pickled_weights(tmp_path: Path) -> None:
    refused(tmp_path, "weights: a pickle in their place")


def m16_a_type_that_nobody_knows(tmp_path: Path) -> None:
    for id in ("config: a model type that nobody knows", "config: no model type", "config: code of its own"):
        refused(tmp_path / id.replace(" ", "-"), id)


def m17_absurd_sizes(tmp_path: Path) -> None:
    for id in ("config: a hidden size of 10^9", "config: 10^9 layers"):
        refused(tmp_path / id.replace(" ", "-"), id)


def m18_malformed_gguf(tmp_path: Path) -> None:
    refused(tmp_path, "gguf: array of 2^61 doubles")


def m19_a_number_format_that_cannot_be_trained(tmp_path: Path) -> None:
    refused(tmp_path / "a", "weights: a number format that can't be trained")
    refused(tmp_path / "b", "config: weights packed by another tool")


def m20_a_planted_adapter(tmp_path: Path) -> None:
    refused(tmp_path, "config: a planted adapter")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and the run of an adapter on it."""
    folder = tmp_path_factory.mktemp("trained")
    finetune(make_config(folder))
    return folder


def adapter_in(trained: Path, tmp_path: Path) -> Path:
    (run,) = list_runs(trained / "runs")
    shutil.copytree(run.path / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / "MANIFEST.json").unlink()  # an adapter from elsewhere has none
    return tmp_path / "adapter"


def test_m21_an_adapter_for_another_base(trained: Path, tmp_path: Path) -> None:
    folder = adapter_in(trained, tmp_path)
    other = tiny_llama(tmp_path, seed=7)
    edit(folder / "sapwood.json", base=str(other))
    with pytest.raises(ModelError, match=r"not the base that this adapter was trained on.*, found"):
        open_target(str(folder), tmp_path)
    spec = inspect_base(BaseConfig(model=str(tiny_llama(tmp_path / "wide", hidden_size=32))))
    edit(folder / "sapwood.json", base=spec.source, base_fingerprint=spec.fingerprint)
    with pytest.raises(ModelError, match=r"adapter tensor .* is \[2, 64\], where the model has \[2, 32\]"):
        open_target(str(folder), tmp_path)


def test_m22_an_adapter_that_is_not_finite(trained: Path, tmp_path: Path) -> None:
    folder = adapter_in(trained, tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = sorted(tensors)[0]
    tensors[name][0, 0] = float("nan")
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=rf"adapter tensor {name} is not finite"):
        open_target(str(folder), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"r": 2', '"r": NaN', "NaN is not a JSON value"),
        ('"r": 2', '"r": 2, "r": 4', "a key appears twice"),
        ('"r": 2', '"r": 1000000000', "adapter config is not valid"),
        ('"r": 2', '"r": 2, "evil_code": "import os"', "evil_code"),
        ('"peft_type": "LORA"', '"peft_type": "LOHA"', "adapter type 'LOHA'"),
        ('"use_qalora": false', '"use_qalora": true', "uses use_qalora"),
        ('"lora_alpha": 32', '"lora_alpha": 1e999', "adapter config is not valid"),
    ],
)
def test_m23_an_adapter_config_is_read_strictly(
    trained: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    folder = adapter_in(trained, tmp_path)
    path = folder / "adapter_config.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ModelError, match=message) as caught:
        open_target(str(folder), tmp_path)
    assert "adapter_config.json" in str(caught.value)


def read_as_nobody(folder: str) -> None:
    """Leaves with 70 where the error names whose file it is, and its mode."""
    os.setgid(65534)
    os.setuid(65534)
    try:
        read_adapter(Path(folder))
    except ModelError as error:
        os._exit(70 if "belongs to user 0, mode 0600" in str(error) else 71)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_m24_an_adapter_of_somebody_else(trained: Path) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        folder = adapter_in(trained, Path(place))
        Path(place).chmod(0o755)
        (folder / "adapter_config.json").chmod(0o600)
        assert exit_code(read_as_nobody, str(folder)) == 70


def test_m25_the_models_folder_is_never_written_to(trained: Path) -> None:
    """The run of the fixture left it as it was; and where it can't be written, that is no matter."""
    names = {path.name for path in (trained / "tiny-llama").iterdir()}
    assert names == {path.name for path in tiny_llama(trained / "fresh").iterdir()}


def test_m26_links_inside_the_hubs_cache(tmp_path: Path) -> None:
    """In full in `test_folder.test_links_stay_inside_the_folder_or_the_hubs_cache`."""
    folder = folder_of(tmp_path)
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert inspect_base(BaseConfig(model=str(snapshot))).stop_ids == (2,)


def test_m27_a_model_that_is_larger_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = inspect_base(BaseConfig(model=str(folder_of(tmp_path))))
    monkeypatch.setattr(f"{load_base.__module__}.available_memory", lambda: 10_000)
    with pytest.raises(ModelError, match=r"not enough memory for the base model.*are free.*base\.storage"):
        load_base(spec, BaseConfig(model=spec.source, storage="fp32"))


def refused(tmp_path: Path, id: str) -> None:
    """A case of `hostile` is refused with its message."""
    make, message = {**GGUF, **SAFETENSORS, **FOLDER}[id]
    tmp_path.mkdir(exist_ok=True)
    lay_out(tmp_path)
    make(tmp_path)
    config = BaseConfig(model=str(tmp_path / ("model.gguf" if id.startswith("gguf") else "model")))
    with pytest.raises(ModelError, match=message):
        load_base(inspect_base(config), config.model_copy(update={"storage": "fp32"}))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


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
    "M10": m10_more_layers_than_the_file,
    "M11": m11_another_vocabulary,
    "M12": m12_missing_shards,
    "M13": m13_a_shard_outside,
    "M14": m14_damaged_weights,
    "M15": m15_pickled_weights,
    "M16": m16_a_type_that_nobody_knows,
    "M17": m17_absurd_sizes,
    "M18": m18_malformed_gguf,
    "M19": m19_a_number_format_that_cannot_be_trained,
    "M20": m20_a_planted_adapter,
}


@pytest.mark.parametrize("id", CASES)
def test_case(tmp_path: Path, id: str) -> None:
    CASES[id](tmp_path)


def test_no_id_is_left_out() -> None:
    beside = {name.split("_")[1].upper() for name in globals() if name.startswith("test_m2")}
    assert [*CASES, *sorted(beside)] == [f"M{number}" for number in range(1, 28)]
