"""Rules of the code itself: names, imports, versions, arguments that are gone, how rows are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from sapwood.migrate.calls.facts import ARGUMENTS, TRAINERS, first
from sapwood.migrate.rules.rule import Case, Hit, hit, rule
from sapwood.migrate.script.values import Call, Unknown

_IMPORTS = {
    "swanlab.integration.huggingface": "since swanlab 0.8 swanlab.integration.transformers; here track.to",
    "transformers.AdamW": "torch.optim.AdamW; here train.optimizer",
    "transformers.deepspeed": "transformers.integrations.deepspeed",
    "peft.prepare_model_for_int8_training": "prepare_model_for_kbit_training; here it isn't needed",
    "trl.DataCollatorForCompletionOnlyLM": "completion_only_loss; here template.train_on",
    "transformers.TextDataset": "the datasets library; here data.train",
    "trl.setup_chat_format": "clone_chat_template; here template.name",
    "datasets.load_metric": "the evaluate library; here `sapwood eval`",
    "modelscope.swift": "ms-swift",
}  # fmt: skip
_GONE = {
    "arguments": {
        "warmup_ratio": "warmup_steps takes a share below 1; here train.warmup",
        "evaluation_strategy": "eval_strategy; here eval.every",
        "per_gpu_train_batch_size": "per_device_train_batch_size; here train.micro_batch",
        "per_gpu_eval_batch_size": "per_device_eval_batch_size",
        "group_by_length": "train_sampling_strategy; here rows are packed",
        "overwrite_output_dir": "nothing; here each run has its own folder",
        "logging_dir": "the tracker's own setting; here track.to",
        "no_cuda": "use_cpu; here base.device_map", "use_mps_device": "nothing",
        "push_to_hub_token": "hub_token; here HF_TOKEN", "save_safetensors": "nothing; it is the only form",
        "half_precision_backend": "nothing", "fp16_opt_level": "nothing", "fp16_backend": "nothing",
        "adafactor": "optim='adafactor'; here train.optimizer", "torchdynamo": "torch_compile",
        "max_seq_length": "max_length; here pack.length",
    },
    "trainer": {
        "dataset_text_field": "SFTConfig; here data.columns",
        "max_seq_length": "SFTConfig(max_length); here pack.length",
        "tokenizer": "processing_class; here the model's own", "packing": "SFTConfig; here always",
        "dataset_num_proc": "SFTConfig", "dataset_kwargs": "SFTConfig",
        "neftune_noise_alpha": "SFTConfig; here train.neftune",
        "model_init_kwargs": "SFTConfig", "infinite": "nothing", "num_of_sequences": "nothing",
        "chars_per_token": "nothing",
        "dataset_batch_size": "nothing", "eval_packing": "SFTConfig",
    },
    "load": {
        "load_in_4bit": "quantization_config; here base.storage",
        "load_in_8bit": "quantization_config; here base.storage",
        "use_auth_token": "token; here HF_TOKEN",
        "use_flash_attention_2": "attn_implementation; here not needed",
        "resume_download": "nothing; it always does",
    },
}  # fmt: skip
_CHINESE = {
    "takes a share below 1": "小于 1 时是比例", "it isn't needed": "不需要", "not needed": "不需要",
    "each run has its own folder": "每次运行有自己的文件夹", "rows are packed": "样本打包",
    "always": "始终如此",
    "the model's own": "用模型自己的", "the tracker's own setting": "跟踪工具自己的设置",
    "it is the only form": "只有这一种", "it always does": "总是如此", "the datasets library": "datasets 库",
    "the evaluate library": "evaluate 库", "since swanlab 0.8": "自 swanlab 0.8 起为", "nothing": "无需替代",
    "; here ": "；这里：", "; ": "；",
}  # fmt: skip
_PIN = re.compile(r"\b(transformers|peft|trl|accelerate|bitsandbytes|datasets)==([0-9][\w.]*)")
_DTYPE = re.compile(r"torch\.(b?f\w+|half|bf16|fp16|fp32)")
_DTYPES = {"bfloat16", "float16", "float32", "float64", "float", "half", "from_numpy", "full", "functional",
"flatten",
           "bfloat16`", "float8_e4m3fn", "float8_e5m2", "finfo", "fx", "bmm", "backends", "fft", "flip",
           "floor",
           "full_like", "from_dlpack", "bool", "fmod", "frac", "frombuffer"}  # fmt: skip


@rule("undefined-name")
def undefined(case: Case) -> Iterator[Hit]:
    """Names that a setting is given: not those of functions and classes, which a fence needn't import."""
    given: set[str] = set()
    for call in case.facts.script.calls:
        decides = call.last in ARGUMENTS | TRAINERS or call.last in (
            "from_pretrained",
            "load_dataset",
            "get_peft_model",
        )
        for value in (*call.args, *call.kwargs.values()) if decides else ():
            if isinstance(value, Unknown):
                given.add(value.text)
    for name, line in case.facts.script.undefined.items():
        if name in given and name.isidentifier() and not name[0].isupper():
            yield hit(line, name=name)


@rule("import-gone")
def gone_import(case: Case) -> Iterator[Hit]:
    for name, line in case.facts.script.imported.items():
        for old, instead in _IMPORTS.items():
            if name == old or name.startswith(f"{old}."):
                yield hit(line, name=name, **_instead(instead))


def _instead(text: str) -> dict[str, str]:
    chinese = text
    for phrase, ours in _CHINESE.items():
        chinese = chinese.replace(phrase, ours)
    return {"instead": text, "instead_zh": chinese}


@rule("argument-gone")
def gone(case: Case) -> Iterator[Hit]:
    for call in case.facts.script.calls:
        yield from (
            hit(
                call.lines.get(f"\0{name}", call.lines.get(name, call.line)),
                call=_name(call),
                name=name,
                **_instead(_GONE[kind][name]),
            )
            for kind in _kind(case, call)
            for name in call.kwargs
            if name in _GONE[kind]
        )


def _kind(case: Case, call: Call) -> tuple[str, ...]:
    if call.last in ARGUMENTS and "Unsloth" not in call.last:
        return ("arguments",)
    if call.last in TRAINERS and not case.facts.in_unsloth:  # unsloth takes the old arguments
        return ("trainer",)
    return (
        ("load",)
        if call.last == "from_pretrained" and "Fast" not in call.name and "Peft" not in call.name
        else ()
    )


def _name(call: Call) -> str:
    return ".".join(call.name.split(".")[-2:]) if call.last == "from_pretrained" else call.last


@cache
def _versions() -> dict[str, list[str]]:
    from ruamel.yaml import YAML

    path = files("sapwood.migrate").joinpath("tables", "versions.yaml")
    tree: dict[str, str] = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    return {name: listed.split() for name, listed in tree.items()}


@rule("version-gone")
def version(case: Case) -> Iterator[Hit]:
    for at, line in enumerate(case.facts.source.lines, 1):
        for name, wanted in _PIN.findall(line):
            known = _versions()[name]
            if wanted not in known and f"{wanted}.0" not in known and _number(wanted) <= _number(known[0]):
                yield hit(at, name=name, version=wanted)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


@rule("no-such-dtype")
def dtype(case: Case) -> Iterator[Hit]:
    for at, line in enumerate(case.facts.source.lines, 1):
        if len(line) > 5000:
            continue
        for name in _DTYPE.findall(line):
            if name not in _DTYPES:
                yield hit(at, name=f"torch.{name}")
        if re.search(r"""bnb_4bit_compute_dtype.{0,40}?['"](bf16|fp16)['"]""", line):
            yield hit(at, name="torch." + re.findall(r"""['"](bf16|fp16)['"]""", line)[0])


@rule("report-misdescribed")
def misdescribed(case: Case) -> Iterator[Hit]:
    for at, line in enumerate(case.facts.source.lines, 1):
        if re.search(
            r"report_to.*#.*(默认\s*(?:是|为)?\s*wandb|defaults? (?:is |to )wandb)", line, re.IGNORECASE
        ):
            yield hit(at)


# --- rows -------------------------------------------------------------------------------------------------


@rule("pickle-data")
def pickle(case: Case) -> Iterator[Hit]:
    yield from _loaders(case, "pandas")
    for call in case.facts.calls("read_pickle"):
        yield hit(call.line)


@rule("text-by-line")
def by_line(case: Case) -> Iterator[Hit]:
    yield from _loaders(case, "text")


def _loaders(case: Case, kind: str) -> Iterator[Hit]:
    """In the code and in the prose, which advises it."""
    wanted = re.compile(rf"""load_dataset\(\s*['"]{kind}['"]""")
    for at, line in enumerate(case.facts.source.lines, 1):
        if len(line) < 5000 and wanted.search(line) and "sample_by" not in line:
            yield hit(at)


@rule("private-pandas-append")
def append(case: Case) -> Iterator[Hit]:
    for call in case.facts.calls("_append"):
        yield hit(call.line)


@rule("open-without-encoding")
def no_encoding(case: Case) -> Iterator[Hit]:
    for call in case.facts.script.calls:
        path, mode = first(call, "file"), call.args[1] if len(call.args) > 1 else call.kwargs.get("mode", "r")
        text = isinstance(path, str) and path.endswith((".json", ".jsonl", ".csv", ".txt"))
        if (
            call.last == "open"
            and call.of is None
            and text
            and not (isinstance(mode, str) and "b" in mode)
            and "encoding" not in call.kwargs
        ):
            yield hit(call.line)


@rule("bad-line-unnamed")
def bad_line(case: Case) -> Iterator[Hit]:
    for call in case.facts.script.calls:
        given = call.args[0] if call.args else None
        if (
            call.name.endswith("json.loads")
            and isinstance(given, Unknown)
            and given.text.startswith("each of")
        ):
            yield hit(call.line)
