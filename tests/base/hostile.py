"""Model files that mean harm, or are merely broken: for each, how to make it and what the refusal says.

``make(folder)`` turns the good model in ``folder / "model"`` (a Hugging Face folder) or ``folder /
"model.gguf"`` into the case. ``folder / "outside"`` holds what nobody may open. `test_hostile.py` opens each
through the front door and watches; `bench/hostile.py` times it.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.base.tiny import tiny_llama
from tests.gguf.raw_gguf import MALFORMED
from tests.gguf.tiny_gguf import tiny_gguf

Make = Callable[[Path], object]
Cases = dict[str, tuple[Make, str]]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM, QUERY = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
PICKLE = b"cposix\nsystem\n(S'touch ran'\ntR."  # runs a command when it is unpickled
RAN = "ran"  # what planted code would create beside itself
CODE = f"import pathlib\npathlib.Path(__file__).with_name({RAN!r}).touch()\n"


def lay_out(folder: Path) -> None:
    """The good models, and what lies outside of them."""
    tiny_llama(folder).rename(folder / "model")
    tiny_gguf("llama", folder / "model.gguf")
    outside = folder / "outside"
    outside.mkdir()
    for name in (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"):
        (outside / name).write_bytes((folder / "model" / name).read_bytes())
    (outside / "evil.py").write_text(CODE)


# --- GGUF -------------------------------------------------------------------------------------------------


def _bytes(content: bytes) -> Make:
    return lambda folder: (folder / "model.gguf").write_bytes(content)


def _keys(arch: str = "llama", **keys: Any) -> Make:
    named = {name.replace("__", "."): value for name, value in keys.items()}
    return lambda folder: tiny_gguf(arch, folder / "model.gguf", keys=named)


def _inside(old: bytes, new: bytes) -> Make:
    """Replace bytes by as many others."""
    assert len(old) == len(new)

    def make(folder: Path) -> None:
        path = folder / "model.gguf"
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    return make


def _in_place_of(name: str, put: Callable[[Path], object]) -> Make:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        put(folder / name)

    return make


TOKENS, MERGES = "tokenizer__ggml__tokens", "tokenizer__ggml__merges"
GGUF: Cases = {f"gguf: {name}": (_bytes(content), message) for name, (content, message) in MALFORMED.items()}
for _name in ("empty", "another magic"):  # what isn't GGUF at all is seen before it is read
    GGUF[f"gguf: {_name}"] = (GGUF[f"gguf: {_name}"][0], "isn't GGUF")
GGUF |= {
    "gguf: an architecture that nobody knows": (
        _keys(general__architecture="evil"),
        "architecture 'evil' isn't supported",
    ),
    "gguf: 2^31 layers": (_keys(llama__block_count=2**31), "block_count is 2147483648"),
    "gguf: more layers than tensors": (_keys(llama__block_count=10**9), "keys don't fit its tensors"),
    "gguf: one layer more than it has": (_keys(llama__block_count=3), r"layers\.2.*is missing"),
    "gguf: a hidden size of 10^9": (_keys(llama__embedding_length=10**9), "keys don't fit its tensors"),
    "gguf: an MLP of 10^9": (_keys(llama__feed_forward_length=10**9), "not enough memory|another shape"),
    "gguf: heads of 10^9": (_keys(llama__attention__key_length=10**9), "not enough memory|another shape"),
    "gguf: no heads": (_keys(llama__attention__head_count=0), "head_count is 0"),
    "gguf: heads as text": (_keys(llama__attention__head_count="four"), "whole number is needed"),
    "gguf: an epsilon that is no number": (
        _keys(llama__attention__layer_norm_rms_epsilon=float("nan")),
        "positive number is needed",
    ),
    "gguf: a rotary base of infinity": (
        _keys(llama__rope__freq_base=float("inf")),
        "positive number is needed",
    ),
    "gguf: an unknown rotary scaling": (_keys(llama__rope__scaling__type="evil"), "rotary scaling 'evil'"),
    "gguf: a window pattern as text": (
        _keys("gemma2", gemma2__attention__sliding_window_pattern="evil"),
        "sliding_window_pattern",
    ),
    "gguf: a context of nothing": (_keys(llama__context_length=0), "context_length is 0"),
    "gguf: experts of whom nobody says how many are asked": (
        _keys(llama__expert_count=8),
        "expert_used_count is None",
    ),
    "gguf: experts of a family that has none": (
        _keys("gemma2", gemma2__expert_count=8),
        "gemma2 files with experts aren't supported",
    ),
    "gguf: a tokenizer that nobody knows": (
        _keys(tokenizer__ggml__model="evil"),
        "tokenizer kind 'evil'",
    ),
    "gguf: a pre-tokenizer that nobody knows": (
        _keys(tokenizer__ggml__pre="evil"),
        "pre-tokenizer 'evil'",
    ),
    "gguf: no tokens": (_inside(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"), "holds no tokenizer"),
    "gguf: a token twice": (_keys(**{TOKENS: ["a", "a"], MERGES: []}), "token"),
    "gguf: merges of tokens that aren't there": (_keys(**{MERGES: ["evil evil"]}), "the merge 'evil evil'"),
    "gguf: a begin token beyond the vocabulary": (
        _keys(tokenizer__ggml__bos_token_id=10**6),
        "bos_token_id is 1000000",
    ),
    "gguf: a tensor that is missing": (_inside(b"blk.1.attn_q.weight", b"blk.1.attn_Q.weight"), "attn_Q"),
    "gguf: a Python pickle by that name": (_bytes(PICKLE + b"." * 64), "isn't GGUF"),
    "gguf: a link to nowhere": (
        _in_place_of("model.gguf", lambda path: path.symlink_to("nowhere")),
        "model not found",
    ),
    "gguf: a pipe": (_in_place_of("model.gguf", os.mkfifo), "model not found"),
    "gguf: a folder by that name": (_in_place_of("model.gguf", Path.mkdir), "no config.json"),
}


# --- safetensors ------------------------------------------------------------------------------------------


def _header(change: Callable[[dict[str, Any]], object]) -> Make:
    """Rewrite the header and keep the data."""

    def make(folder: Path) -> None:
        path = folder / "model" / WEIGHTS
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        table = json.loads(raw[8 : 8 + length])
        change(table)
        new = json.dumps(table).encode()
        path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])

    return make


def _raw(header: bytes, data: bytes = b"", length: int | None = None) -> Make:
    content = struct.pack("<Q", len(header) if length is None else length) + header + data
    return lambda folder: (folder / "model" / WEIGHTS).write_bytes(content)


def _cut(keep: int) -> Make:
    def make(folder: Path) -> None:
        path = folder / "model" / WEIGHTS
        path.write_bytes(path.read_bytes()[:keep])

    return make


def _entry(name: str, **values: Any) -> Make:
    return _header(lambda table: table[name].update(values))


def _tensors(change: Callable[[dict[str, Any]], object]) -> Make:
    """Save other tensors, in a file that is well formed."""

    def make(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model" / WEIGHTS
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return make


def _overlap(table: dict[str, Any]) -> None:
    """Two tensors on the same bytes, and a hole of the same size where one of them was."""
    first, second = (f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1))
    table[first]["data_offsets"] = table[second]["data_offsets"]


def _nothing(tensors: dict[str, Any]) -> None:
    tensors[NORM][0] = float("nan")


SINGLE = f"model/{WEIGHTS}"
ONE = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
MANY = json.dumps(
    {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(120_000)}
).encode()
SAFETENSORS: Cases = {
    "weights: empty": (_cut(0), "damaged safetensors"),
    "weights: five bytes": (_cut(5), "damaged safetensors"),
    "weights: cut in the header": (_cut(100), "damaged safetensors"),
    "weights: cut by one byte": (_cut(-1), "the download may be cut"),
    "weights: one byte more": (
        lambda folder: (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes() + b"\0"),
        "belong to no tensor",
    ),
    "weights: a header of 2^63 bytes": (_raw(b"{}", length=2**63), "damaged safetensors"),
    "weights: a header of no bytes": (_raw(b""), "damaged safetensors"),
    "weights: a header longer than the file": (_raw(b"{}", length=100), "damaged safetensors"),
    "weights: a header of 9 MB": (_raw(b"{" + b" " * 9_000_000 + b"}"), "damaged safetensors"),
    "weights: a header that is no JSON": (_raw(b"{evil}"), "damaged safetensors"),
    "weights: a header that is a list": (_raw(b"[1]"), "not a table"),
    "weights: a header of 100,000 brackets": (_raw(b'{"a":' + b"[" * 100_000), "damaged safetensors"),
    "weights: a header that is not UTF-8": (_raw(b'{"\xff":1}'), "damaged safetensors"),
    "weights: a tensor twice": (_raw(b"{" + ONE + b"," + ONE + b"}", b"\0" * 4), "twice"),
    "weights: 120,000 empty tensors": (_raw(MANY), "doesn't fit the weights|damaged"),
    "weights: a table of contents that isn't text": (
        _header(lambda table: table.update(__metadata__={"a": [1]})),
        "__metadata__",
    ),
    "weights: an offset beyond the file": (_entry(NORM, data_offsets=[0, 10**9]), NORM),
    "weights: a negative offset": (_entry(NORM, data_offsets=[-256, 0]), NORM),
    "weights: offsets the wrong way round": (_entry(NORM, data_offsets=[256, 0]), NORM),
    "weights: three offsets": (_entry(NORM, data_offsets=[0, 128, 256]), "damaged safetensors"),
    "weights: offsets as text": (_entry(NORM, data_offsets=["0", "256"]), NORM),
    "weights: tensors over each other": (_header(_overlap), "same bytes"),
    "weights: a shape that doesn't fit its bytes": (_entry(NORM, shape=[65]), NORM),
    "weights: a negative shape": (_entry(NORM, shape=[-64]), NORM),
    "weights: a shape of fractions": (_entry(NORM, shape=[64.0]), NORM),
    "weights: a shape of truth values": (_entry(NORM, shape=[True, 64]), NORM),
    "weights: a shape of 2^64": (_entry(NORM, shape=[2**32, 2**32]), NORM),
    "weights: a shape of 10,000 dimensions": (_entry(NORM, shape=[1] * 10_000), NORM),
    "weights: an unknown number format": (_entry(NORM, dtype="EVIL"), "stored as EVIL"),
    "weights: a number format that can't be trained": (_entry(NORM, dtype="F8_E4M3"), "stored as F8_E4M3"),
    "weights: no number format": (_header(lambda table: table[NORM].pop("dtype")), "damaged safetensors"),
    "weights: an entry that is a number": (_header(lambda table: table.update(x=7)), "damaged safetensors"),
    "weights: a name with a path in it": (
        _header(lambda table: table.update({"../x": table.pop(NORM)})),
        "tensor name '../x'",
    ),
    "weights: a name of 600 letters": (
        _header(lambda table: table.update({"x" * 600: table.pop(NORM)})),
        "tensor name",
    ),
    "weights: a tensor that is missing": (_tensors(lambda tensors: tensors.pop(QUERY)), "fit the weights"),
    "weights: a tensor too many": (
        _tensors(lambda tensors: tensors.update({"model.evil.weight": tensors[NORM].clone()})),
        "unexpected tensor model.evil.weight",
    ),
    "weights: a tensor of another shape": (
        _tensors(lambda tensors: tensors.update({QUERY: tensors[QUERY].reshape(32, 128).clone()})),
        "another shape",
    ),
    "weights: not a number": (_tensors(_nothing), "aren't finite"),
    "weights: a pickle in their place": (
        lambda folder: (folder / SINGLE).rename(folder / "model" / "pytorch_model.bin").write_bytes(PICKLE),
        r"pytorch_model\.bin, which runs code",
    ),
    "weights: a pickle by their name": (
        lambda folder: (folder / SINGLE).write_bytes(PICKLE + b"." * 64),
        "damaged safetensors",
    ),
    "weights: a folder by their name": (_in_place_of(SINGLE, Path.mkdir), "not a file"),
    "weights: a pipe": (_in_place_of(SINGLE, os.mkfifo), "not a file"),
    "weights: a link that leaves": (
        _in_place_of(SINGLE, lambda path: path.symlink_to(path.parents[1] / "outside" / WEIGHTS)),
        "a link leaves",
    ),
}


# --- index and config -------------------------------------------------------------------------------------


def _json(name: str, **values: Any) -> Make:
    """Change keys of a JSON file; None takes a key away."""

    def make(folder: Path) -> None:
        path = folder / "model" / name
        tree = json.loads(path.read_text())
        tree |= values
        path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))

    return make


def _text(name: str, text: str) -> Make:
    return lambda folder: (folder / "model" / name).write_text(text)


def _index(shard: object, weight_map: object = None) -> Make:
    """An index that maps every tensor to ``shard``; the single file is its second shard."""

    def make(folder: Path) -> None:
        path = folder / "model"
        (path / WEIGHTS).rename(path / "part-1.safetensors")
        tree = weight_map if weight_map is not None else {EMBEDDING: shard, NORM: "part-1.safetensors"}
        (path / INDEX).write_text(json.dumps({"weight_map": tree}))

    return make


def _link(name: str) -> Make:
    """A file of the folder becomes a link to one like it outside."""
    return _in_place_of(
        f"model/{name}", lambda path: path.symlink_to(path.parents[1] / "outside" / path.name)
    )


def _planted_code(folder: Path) -> None:
    _json("config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}, model_type="evil")(folder)
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "__init__.py"):
        (folder / "model" / name).write_text(CODE)


def _planted_tokenizer(folder: Path) -> None:
    auto = {"AutoTokenizer": ["tokenization_evil.Evil", None]}
    _json("tokenizer_config.json", auto_map=auto, tokenizer_class="Evil")(folder)
    (folder / "model" / "tokenization_evil.py").write_text(CODE)
    (folder / "model" / "tokenizer.json").unlink()


def _both(folder: Path) -> None:
    """A single file that libraries take, beside an index that doesn't name it."""
    weights = folder / "model" / WEIGHTS
    (folder / "model" / "part-1.safetensors").write_bytes(weights.read_bytes())
    (folder / "model" / INDEX).write_text(json.dumps({"weight_map": {EMBEDDING: "part-1.safetensors"}}))


CONFIG = "config.json"
FOLDER: Cases = {
    **{
        f"index: a shard called {name[:30]!r}": (_index(name), "not a plain file name")
        for name in (
            f"../outside/{WEIGHTS}",
            f"/etc/{WEIGHTS}",
            f"sub/{WEIGHTS}",
            "..",
            "",
            "x.bin",
            "a\0.safetensors",
            "~/x.safetensors",
            "x\\y.safetensors",
            "https://evil.example/x.safetensors",
            "evil.py",
        )
    },
    "index: a shard that is a number": (_index(7), "not a plain file name"),
    "index: a shard that is a list": (_index([f"../outside/{WEIGHTS}"]), "not a plain file name"),
    "index: a shard that is missing": (_index("part-2.safetensors"), r"shard part-2\.safetensors is missing"),
    "index: a tensor that no shard holds": (_index(None, {"evil": "part-1.safetensors"}), "no shard holds"),
    "index: a list": (_index(None, ["part-1.safetensors"]), "maps no tensor"),
    "index: empty": (_index(None, {}), "maps no tensor"),
    "index: no JSON": (_text(INDEX, "{evil"), "not valid JSON"),
    "index: a key twice": (_text(INDEX, '{"weight_map": {"a": "b"}, "weight_map": {}}'), "twice"),
    "index: beside a single file": (_both, "can't be told apart"),
    "index: a link that leaves": (
        lambda folder: (folder / "model" / INDEX).symlink_to(folder / "outside" / CONFIG),
        "a link leaves",
    ),
    "config: no JSON": (_text(CONFIG, "import os"), "not valid JSON"),
    "config: a list": (_text(CONFIG, "[1]"), "not a JSON object"),
    "config: 100,000 brackets": (_text(CONFIG, "[" * 100_000), "not valid JSON"),
    "config: a key twice": (_text(CONFIG, '{"model_type": "llama", "model_type": "evil"}'), "twice"),
    "config: NaN": (_text(CONFIG, '{"rms_norm_eps": NaN}'), "NaN"),
    "config: 9 MB": (_text(CONFIG, " " * 9_000_000 + "{}"), "too large"),
    "config: a link that leaves": (_link(CONFIG), "a link leaves"),
    "config: no model type": (_json(CONFIG, model_type=None), "model_type None isn't supported"),
    "config: a model type that nobody knows": (_json(CONFIG, model_type="evil"), "model_type 'evil'"),
    "config: a model type that is a list": (_json(CONFIG, model_type=["llama"]), "model_type"),
    "config: code of its own": (_planted_code, "needs code of its own"),
    "config: code of its own, as text": (_json(CONFIG, auto_map="evil.Evil"), "needs code of its own"),
    "config: a hidden size of 10^9": (
        _json(CONFIG, hidden_size=10**9),
        "fit the weights|can be built",
    ),
    "config: a negative hidden size": (_json(CONFIG, hidden_size=-64), "built|valid"),
    "config: a hidden size as text": (_json(CONFIG, hidden_size="64"), "built|valid"),
    "config: 10^9 layers": (_json(CONFIG, num_hidden_layers=10**9), "describes 1,000,000,000 layers"),
    "config: layers as text": (_json(CONFIG, num_hidden_layers="2"), "valid"),
    "config: one layer more than the weights": (_json(CONFIG, num_hidden_layers=3), "fit the weights"),
    "config: one layer less than the weights": (_json(CONFIG, num_hidden_layers=1), "unexpected tensor"),
    "config: another vocabulary": (_json(CONFIG, vocab_size=599), "doesn't fit the model|another shape"),
    "config: no heads": (_json(CONFIG, num_attention_heads=0), "built|valid"),
    "config: a list for a number": (_json(CONFIG, intermediate_size=[128]), "built|valid"),
    "config: an activation that is a path": (_json(CONFIG, hidden_act="../outside/evil.py"), "built|valid"),
    "config: weights packed by another tool": (
        _json(CONFIG, quantization_config={"quant_method": "gptq"}),
        "stored as gptq",
    ),
    "config: an encoder too": (_json(CONFIG, is_encoder_decoder=True), "is an encoder with a decoder"),
    "config: a planted adapter": (
        lambda folder: (folder / "model" / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(folder / "outside")})
        ),
        "the folder holds an adapter",
    ),
    "tokenizer: code of its own": (_planted_tokenizer, "no usable tokenizer"),
    "tokenizer: no JSON": (_text("tokenizer.json", "evil"), "no usable tokenizer"),
    "tokenizer: 100,000 brackets": (_text("tokenizer.json", "[" * 100_000), "no usable tokenizer"),
    "tokenizer: a link that leaves": (_link("tokenizer.json"), "a link leaves"),
    "tokenizer: settings that are a list": (_text("tokenizer_config.json", "[]"), "not a JSON object"),
    "tokenizer: a template that is a link": (
        lambda folder: (
            (folder / "model" / "chat_template.jinja").symlink_to(folder / "outside" / CONFIG)
            if not (folder / "model" / "chat_template.jinja").unlink(missing_ok=True)
            else None
        ),
        "a link leaves",
    ),
}

# What is harmless once cleaned: it opens, and nothing of it is obeyed.
CLEANED: Mapping[str, Make] = {
    "config: kernels from elsewhere": _json(
        CONFIG, _attn_implementation_internal="evil/kernel", attn_implementation="evil/kernel"
    ),
    "config: trust, and code for a class that isn't needed": _json(
        CONFIG, trust_remote_code=True, auto_map={"AutoConfig": "modeling_evil.Evil"}
    ),
    "config: a name to load from": _json(CONFIG, _name_or_path="evil/model", name_or_path="evil/model"),
    "tokenizer: files elsewhere": lambda folder: _json(
        "tokenizer_config.json",
        tokenizer_file=str(folder / "outside" / "tokenizer.json"),
        vocab_file=str(folder / "outside" / "tokenizer.json"),
        fast_tokenizer_files=["../outside/tokenizer.json", "tokenizer.9.json"],
        name_or_path=str(folder / "outside"),
    )(folder),
    "tokenizer: code for a class that isn't needed": _json(
        "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_evil.Evil", None]}
    ),
}
