from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sapwood.base.folder import check_layout, read_folder, read_json
from sapwood.base.packed.stored import num_elements
from sapwood.errors import ModelError
from tests.base.tiny import tiny_llama


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a safetensors header, keeping the data."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    table = json.loads(raw[8 : 8 + length])
    change(table)
    new = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])


def index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_a_good_folder_is_read(folder: Path) -> None:
    read = read_folder(folder)
    assert read.shapes["model.embed_tokens.weight"] == (600, 64)
    assert read.shards == (folder / "model.safetensors",)
    assert num_elements(read) > 600 * 64
    assert read.config["model_type"] == "llama"


def test_shards_follow_the_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    index(folder, dict.fromkeys((NORM, "model.embed_tokens.weight"), "part-1.safetensors"))
    assert read_folder(folder).shards == (folder / "part-1.safetensors",)


def test_config_keys_that_make_libraries_run_code_are_dropped(folder: Path) -> None:
    def plant(config: dict[str, Any]) -> None:
        config["_attn_implementation_internal"] = "someone/kernel"
        config["attn_implementation"] = "someone/kernel"
        config["trust_remote_code"] = True
        config["auto_map"] = {"AutoConfig": "x.Y"}
        config["sub"] = {
            "auto_map": {},
            "_experts_implementation": "x",
            "list": [{"trust_remote_code": 1, "a": 1}],
        }

    edit(folder / "config.json", plant)
    config = read_folder(folder).config
    assert config["sub"] == {"list": [{"a": 1}]}
    assert config["auto_map"] == {"AutoConfig": "x.Y"}  # base decides about this one
    assert not [key for key in config if "implementation" in key or "trust" in key]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_a_planted_adapter_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    with pytest.raises(ModelError, match=f"holds an adapter.*{name}"):
        check_layout(folder)


def test_pickled_weights_alone_are_refused_with_the_way_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin, which runs code.*safetensors"):
        check_layout(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"no .safetensors file"):
        check_layout(folder)


def test_a_folder_of_gguf_files_is_pointed_at_one(folder: Path) -> None:
    (folder / "config.json").rename(folder / "oak.gguf")
    with pytest.raises(ModelError, match=r"no config.json.*oak.gguf"):
        check_layout(folder)
    with pytest.raises(ModelError, match="can't be read"):
        check_layout(folder / "nowhere")


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", ".."])
def test_an_index_that_leaves_the_folder_is_refused(folder: Path, name: str) -> None:
    index(folder, {"a": name})
    with pytest.raises(ModelError, match="not a plain file name"):
        read_folder(folder)


def test_all_missing_shards_are_listed(folder: Path) -> None:
    index(folder, {"a": "x-1.safetensors", "b": "x-2.safetensors", "c": "model.safetensors"})
    with pytest.raises(ModelError) as caught:
        read_folder(folder)
    assert [p.what for p in caught.value.problems] == [
        "shard x-1.safetensors is missing",
        "shard x-2.safetensors is missing",
    ]


@pytest.mark.parametrize("value", [None, {}, []])
def test_an_empty_index_is_refused(folder: Path, value: object) -> None:
    index(folder, value)
    with pytest.raises(ModelError, match="maps no tensor"):
        read_folder(folder)


def test_unnamed_shards_are_not_guessed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    with pytest.raises(ModelError, match="can't be told apart"):
        read_folder(folder)


def test_the_same_tensor_in_two_shards_is_refused(folder: Path) -> None:
    (folder / "b.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    index(folder, {"a": "model.safetensors", "b": "b.safetensors"})
    with pytest.raises(ModelError, match="is in two shards"):
        read_folder(folder)


def test_links_stay_inside_the_folder_or_the_hubs_cache(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    outside = tmp_path / "outside"
    weights.rename(outside)
    weights.symlink_to(outside)
    with pytest.raises(ModelError, match="a link leaves"):
        read_folder(folder)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.parent.mkdir(parents=True)
    blobs.mkdir()
    folder.rename(snapshot)
    outside.rename(blobs / "abc")
    (snapshot / weights.name).unlink()
    (snapshot / weights.name).symlink_to(Path("../../blobs/abc"))
    assert read_folder(snapshot).shards == (snapshot / weights.name,)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[NORM].update(data_offsets=[0, 10**9]), NORM),
        (lambda t: t[NORM].update(shape=[65]), NORM),
        (lambda t: t[NORM].update(shape=[-64]), NORM),
        (lambda t: t[NORM].update(dtype="F8_E4M3"), "stored as F8_E4M3"),
        (lambda t: t[NORM].pop("dtype"), "damaged"),
        (lambda t: t.pop(NORM), "belong to no tensor|the download"),
        (lambda t: t.update({"a b": t.pop(NORM)}), "tensor name 'a b'"),
        (lambda t: t.update(x=7), "damaged"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    weights = folder / "model.safetensors"
    header(weights, lambda table: [table.pop(k) for k in list(table) if k not in (NORM, "__metadata__")])
    header(weights, lambda table: table[NORM].update(data_offsets=[0, 256]))
    raw = weights.read_bytes()
    weights.write_bytes(raw[: 8 + struct.unpack("<Q", raw[:8])[0] + 256])
    assert read_folder(folder).shapes == {NORM: (64,)}
    header(weights, change)
    with pytest.raises(ModelError, match=message) as caught:
        read_folder(folder)
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_cut_weights_file_is_named(folder: Path, keep: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"damaged safetensors file.*model.safetensors"):
        read_folder(folder)


def test_a_header_that_is_not_a_table_is_refused(folder: Path) -> None:
    for content in (b"[1]", b"{" * 2000, b'\xff"'):
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)
        with pytest.raises(ModelError, match="damaged"):
            read_folder(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": NaN}', "NaN"),
        ("[1]", "not a JSON object"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_small_json_files_are_read_strictly(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ModelError, match=message):
        read_json(path)


def test_a_json_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(" " * 100)
    with pytest.raises(ModelError, match="too large"):
        read_json(path, limit=50)
    with pytest.raises(ModelError, match="can't be read"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("spelling", ["Infinity", '{"__float__": "Infinity"}'])
def test_a_limit_that_is_none_is_read_in_both_spellings(spelling: str, tmp_path: Path) -> None:
    """As Mamba 2, Bamba and Falcon H1 write it: the first by transformers 4, the second by transformers 5."""
    (tmp_path / "config.json").write_text(f'{{"time_step_limit": [0.0, {spelling}]}}')
    assert read_json(tmp_path / "config.json") == {"time_step_limit": [0.0, float("inf")]}


@pytest.mark.parametrize("spelling", ["NaN", "-Infinity"])
def test_what_is_no_number_is_refused(spelling: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"rms_norm_eps": {spelling}}}')
    with pytest.raises(ModelError, match="not valid JSON"):
        read_json(tmp_path / "config.json")


def test_a_table_of_integers_is_read_and_weights_of_integers_are_not(folder: Path) -> None:
    save_file({"hash.table": torch.arange(4)}, folder / "model.safetensors")
    assert read_folder(folder).shapes == {"hash.table": (4,)}
    save_file({"q_proj.weight": torch.arange(4)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="stored as I64"):
        read_folder(folder)
