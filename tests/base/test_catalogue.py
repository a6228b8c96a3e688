"""What models and adapters can be wrong in, case by case: what sapwood says of each."""

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
from sapwood.adapter.places.targets import resolve_targets
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
from tests.test_faults import faults
from tests.test_pipeline import make_config


def folder_of(tmp_path: Path) -> Path:
    tiny_llama(tmp_path)
    return tmp_path / "tiny-llama"


def prepared(renderer: Renderer, vocab_rows: int = 99_999) -> Any:
    return prepare([chat("q", "a")], renderer, TemplateConfig(), max_length=256, vocab_rows=vocab_rows)


def no_tokenizer(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match=r"no usable tokenizer.*expected tokenizer\.json"):
        inspect_base(BaseConfig(model=str(folder)))


def ids_beyond_the_embedding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[vocabulary\].*id \d+, but the embedding has 5 rows"):
        prepared(tiny(), vocab_rows=5)


def an_embedding_larger_than_the_vocabulary(tmp_path: Path) -> None:
    spec = inspect_base(BaseConfig(model=str(folder_of(tmp_path))))
    rows = spec.hf_config.vocab_size + 64
    assert prepared(Renderer(spec.tokenizer), vocab_rows=rows).examples


def no_chat_template(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ships no chat template.*gemma-2, llama-2-chat, chatglm3, chatml"):
        choose_template(real_tokenizer("llama2"), "auto")


def bad_templates(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"isn't valid Jinja · template line 2"):
        Renderer(tiny_tokenizer("x\n{% for %}"))
    with pytest.raises(DataError, match=r"refuses this row · data\.json:1 · no thanks"):
        prepared(Renderer(tiny_tokenizer("{{ raise_exception('no thanks') }}")))
    loop = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}"
    with pytest.raises(DataError, match=r"it ran for more than 2 s|it took more than 1,000 MB"):
        Renderer(tiny_tokenizer("{% if messages | length > 2 %}" + loop + "{% endif %}" + CHATML)).render(
            chat("q", "a", "q", "a")
        )


def no_padding_token(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(CHATML)
    tokenizer.pad_token = None
    (example,) = prepared(Renderer(tokenizer)).examples
    assert example.ids[example.trained][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def padding_that_is_the_end(tmp_path: Path) -> None:
    for pad in ("<|im_end|>", "<|endoftext|>"):
        tokenizer = tiny_tokenizer(CHATML)
        tokenizer.pad_token = pad
        (example,) = prepared(Renderer(tokenizer)).examples
        assert example.ids[example.trained][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer = tiny_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}")
    tokenizer.eos_token = None
    with pytest.raises(DataError, match=r"no stop token is known · base\.model"):
        Renderer(tokenizer)


def two_begins_of_text(tmp_path: Path) -> None:
    tokenizer = real_tokenizer("llama2")
    twice = "{{ bos_token }}" + (choose_template(tokenizer, "llama-2-chat") or "")
    with pytest.raises(DataError, match=r"\[double-bos\].*data\.json:1"):
        prepared(Renderer(tokenizer, twice))


def tied_embeddings(tmp_path: Path) -> None:
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


def more_layers_than_the_file(tmp_path: Path) -> None:
    refused(tmp_path, "config: one layer more than the weights")


def another_vocabulary(tmp_path: Path) -> None:
    """More rows than the tokenizer has tokens, and not those of the weights."""
    folder = folder_of(tmp_path)
    edit(folder / "config.json", vocab_size=608, num_hidden_layers=1)  # fewer weights, so the sum fits
    spec = inspect_base(BaseConfig(model=str(folder)))
    said = r"model\.embed_tokens\.weight has another shape.*has \[600, 64\], the config asks for \[608, 64\]"
    with pytest.raises(ModelError, match=said):
        load_base(spec, BaseConfig(model=spec.source, storage="fp32"))


def missing_shards(tmp_path: Path) -> None:
    refused(tmp_path, "index: a shard that is missing")


def a_shard_outside(tmp_path: Path) -> None:
    refused(tmp_path, f"index: a shard called {'../outside/model.safetensors'!r}")


def damaged_weights(tmp_path: Path) -> None:
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


def pickled_weights(tmp_path: Path) -> None:
    refused(tmp_path, "weights: a pickle in their place")


def a_type_that_nobody_knows(tmp_path: Path) -> None:
    for id in ("config: a model type that nobody knows", "config: no model type", "config: code of its own"):
        refused(tmp_path / id.replace(" ", "-"), id)


def absurd_sizes(tmp_path: Path) -> None:
    for id in ("config: a hidden size of 10^9", "config: 10^9 layers"):
        refused(tmp_path / id.replace(" ", "-"), id)


def malformed_gguf(tmp_path: Path) -> None:
    refused(tmp_path, "gguf: array of 2^61 doubles")


def a_number_format_that_cannot_be_trained(tmp_path: Path) -> None:
    refused(tmp_path / "a", "weights: a number format that can't be trained")
    refused(tmp_path / "b", "config: weights packed by another tool")


def a_planted_adapter(tmp_path: Path) -> None:
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


def test_an_adapter_for_another_base(trained: Path, tmp_path: Path) -> None:
    folder = adapter_in(trained, tmp_path)
    other = tiny_llama(tmp_path, seed=7)
    edit(folder / "sapwood.json", base=str(other))
    with pytest.raises(ModelError, match=r"not the base that this adapter was trained on.*, found"):
        open_target(str(folder), tmp_path)
    spec = inspect_base(BaseConfig(model=str(tiny_llama(tmp_path / "wide", hidden_size=32))))
    edit(folder / "sapwood.json", base=spec.source, base_fingerprint=spec.fingerprint)
    with pytest.raises(ModelError, match=r"adapter tensor .* is \[2, 64\]; the model has \[2, 32\]"):
        open_target(str(folder), tmp_path)


def test_an_adapter_that_is_not_finite(trained: Path, tmp_path: Path) -> None:
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
        ('"r": 2', '"r": 1000000000', "form isn't supported: r: 1000000000"),
        ('"r": 2', '"r": 2, "evil_code": "import os"', "evil_code"),
        ('"peft_type": "LORA"', '"peft_type": "LOLA"', "adapter type 'LOLA'"),
        ('"peft_type": "LORA"', '"peft_type": "LOHA"', "form isn't supported: lora_alpha: 32"),
        ('"r": 2', '"r": 2, "use_qalora": true', "form isn't supported: use_qalora"),
        ('"lora_alpha": 32', '"lora_alpha": 1e999', "form isn't supported: lora_alpha: inf"),
    ],
)
def test_an_adapter_config_is_read_strictly(
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
def test_an_adapter_of_somebody_else(trained: Path) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        folder = adapter_in(trained, Path(place))
        Path(place).chmod(0o755)
        (folder / "adapter_config.json").chmod(0o600)
        assert exit_code(read_as_nobody, str(folder)) == 70


def test_the_models_folder_is_never_written_to(trained: Path) -> None:
    """The run of the fixture left it as it was; and where it can't be written, that is no matter."""
    names = {path.name for path in (trained / "tiny-llama").iterdir()}
    assert names == {path.name for path in tiny_llama(trained / "fresh").iterdir()}


def test_links_inside_the_hubs_cache(tmp_path: Path) -> None:
    """In full in `test_folder.test_links_stay_inside_the_folder_or_the_hubs_cache`."""
    folder = folder_of(tmp_path)
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert inspect_base(BaseConfig(model=str(snapshot))).stop_ids == (2,)


def test_a_model_that_is_larger_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    "no tokenizer": no_tokenizer,
    "ids beyond the embedding": ids_beyond_the_embedding,
    "an embedding larger than the vocabulary": an_embedding_larger_than_the_vocabulary,
    "no chat template": no_chat_template,
    "a template that is invalid, raises or never ends": bad_templates,
    "no padding token": no_padding_token,
    "a padding token that is also the stop token": padding_that_is_the_end,
    "a template and a tokenizer that both add the begin-of-text token": two_begins_of_text,
    "tied embeddings": tied_embeddings,
    "a config with more layers than the file": more_layers_than_the_file,
    "another vocabulary than the file": another_vocabulary,
    "shards that are missing": missing_shards,
    "a shard outside the folder": a_shard_outside,
    "damaged weights": damaged_weights,
    "pickled weights": pickled_weights,
    "a model type that nobody knows, or code in the folder": a_type_that_nobody_knows,
    "absurd sizes": absurd_sizes,
    "a malformed GGUF file": malformed_gguf,
    "a number format that cannot be trained": a_number_format_that_cannot_be_trained,
    "an adapter planted in the model's folder": a_planted_adapter,
}


@pytest.mark.parametrize("id", CASES)
def test_case(tmp_path: Path, id: str) -> None:
    CASES[id](tmp_path)


def test_the_page_names_each_case() -> None:
    assert not set(CASES) - set(faults())
