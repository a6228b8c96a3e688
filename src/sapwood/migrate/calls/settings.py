"""The calls of a script as settings: model, adapter, training, trackers."""

from __future__ import annotations

import re
from typing import Any

from sapwood.migrate.calls.facts import PEFT, Facts, first, line_of
from sapwood.migrate.calls.training import read_checkpointing, read_loop, read_training
from sapwood.migrate.convert import CONVERT, model_name
from sapwood.migrate.draft import Draft
from sapwood.migrate.keys import apply, apply_all, defaults
from sapwood.migrate.script.values import (
    Attr,
    Call,
    Special,
    Unknown,
)

_TRACKERS = {"SwanLabCallback": "swanlab", "init": "", "WandbCallback": "wandb", "MLflowCallback": "mlflow"}
_ATTRIBUTES = {"use_cache": "load", "pretraining_tp": "load", "padding_side": "tokenizer"}
_PAD = (
    "rows are packed, not padded: no padding token is needed, and labels go by place",
    "样本打包而不填充：不需要填充符，标签按位置决定",
)
_MERGED = (
    "`runs/<id>/adapter` is a plain PEFT folder, and keeps the fingerprint of its base",
    "`runs/<id>/adapter` 就是普通 PEFT 文件夹，并记住基座的指纹",
)


def read_settings(draft: Draft, facts: Facts) -> None:
    apply_all(draft, "hf:quantize", facts.quantize)
    _base(draft, facts)
    if draft.settings.get("base.storage") in ("nf4", "fp4") and not facts.in_unsloth:
        draft.default("base.double_quant", False, "", "the other tool's default", "原工具的默认值")
    apply_all(draft, "hf:tokenizer", facts.tokenizer, skip=("pretrained_model_name_or_path",))
    for call in (
        *facts.calls("DataCollatorForSeq2Seq", "DataCollatorForLanguageModeling"),
        *facts.script.templated,
    ):
        apply_all(draft, "hf:tokenizer", call)
    for call in facts.answering:
        if "trust_remote_code" in call.kwargs:
            apply(
                draft,
                "hf:load",
                "trust_remote_code",
                call.kwargs["trust_remote_code"],
                call.lines["trust_remote_code"],
            )
    _attributes(draft, facts)
    _adapter(draft, facts)
    read_training(draft, facts)
    read_loop(draft, facts)
    read_checkpointing(draft, facts)
    _trackers(draft, facts)
    apply_all(draft, "hf:generate", facts.generate)


def _base(draft: Draft, facts: Facts) -> None:
    base = facts.base
    if base is None:
        named, where = first(facts.trainer, "model"), facts.trainer or facts.adapter
        if isinstance(named, str) or where is not None:  # trl takes a name
            line = line_of(facts.trainer, "model") if facts.trainer else where.line if where else 0
            _model(draft, facts, named, line)
        return
    names = ("pretrained_model_name_or_path", "model_name", "model_id", "path_or_hf_repo")
    model = first(base, *names)
    _model(draft, facts, model, line_of(base, *names))
    own = ("load_in_4bit",) if facts.in_unsloth else ()
    apply_all(draft, "hf:load", base, skip=(*names, *own, "config"))
    _other_quantization(draft, facts, base)
    if own and "load_in_4bit" in base.kwargs:  # unsloth's 4 bits are always nf4
        CONVERT["nf4"](draft, own[0], base.kwargs[own[0]], base.lines[own[0]], "", "")
    if facts.in_unsloth and "load_in_4bit" not in base.kwargs:
        draft.default("base.storage", "nf4", "load_in_4bit", "the other tool's default", "原工具的默认值")
    for wanted in facts.calls("prepare_model_for_kbit_training", "enable_input_require_grads"):
        draft.instead(
            wanted.line,
            wanted.last,
            "",
            "not needed: gradients reach the adapter with and without recomputed layers",
            "不需要：有没有梯度检查点，梯度都能到达适配器",
        )


def _other_quantization(draft: Draft, facts: Facts, base: Call) -> None:
    given = base.kwargs.get("quantization_config")
    if given is not None and facts.quantize is None:
        said = (
            "how the base is packed isn't known here: set base.storage",
            "不知道基座如何量化：请设置 base.storage",
        )
        draft.unread(base.lines["quantization_config"], "quantization_config", given, *said)


def _model(draft: Draft, facts: Facts, model: Any, line: int) -> None:
    fetched = first(facts.download, "model_id", "repo_id") if facts.download else None
    if isinstance(model, Call) and model.last == "snapshot_download":
        fetched, model = first(model, "model_id", "repo_id"), ""
    hub = "ms:" if facts.download is not None and "modelscope" in facts.download.name else "hf:"
    if isinstance(fetched, str) and (
        model == ""
        or (
            isinstance(model, str) and model.rstrip("/").replace("___", ".").lower().endswith(fetched.lower())
        )
    ):
        at = facts.download.line if facts.download else line
        remark = (
            "the hub that it was fetched from; the cache is the system's own",
            "下载它的模型站；缓存在系统的缓存目录",
        )
        draft.take("base.model", f"{hub}{fetched}", at, "snapshot_download", fetched, *remark)
        if model:
            draft.note(
                "base.model",
                line,
                "from_pretrained",
                model,
                "the folder of what was fetched",
                "即下载到的文件夹",
            )
    elif isinstance(model, str) and model:
        ours = model_name(model)
        if "modelscope" in (facts.base.name if facts.base else "") and ours.startswith("hf:"):
            ours = "ms:" + ours.removeprefix("hf:")
        draft.take("base.model", ours, line, "from_pretrained", model)
    else:
        draft.unread(
            line,
            "from_pretrained",
            model,
            "which model it is isn't known: set base.model",
            "不知道是哪个模型：请设置 base.model",
        )
    if facts.download is not None:
        for name in facts.download.kwargs:
            if name in ("cache_dir", "local_dir", "revision"):
                apply(draft, "hf:load", name, facts.download.kwargs[name], facts.download.lines[name])


def _attributes(draft: Draft, facts: Facts) -> None:
    for one in facts.script.assigned:
        if one.name in ("pad_token", "pad_token_id"):
            draft.instead(one.line, one.name, _shown(one.value), *_PAD)
        elif one.name in _ATTRIBUTES:
            apply(draft, f"hf:{_ATTRIBUTES[one.name]}", one.name, one.value, one.line)
    for call in facts.script.calls:
        if call.last in ("save_pretrained", "save_model") and call.of is not None:
            draft.instead(call.line, call.last, first(call, "save_directory", "output_dir") or "", *_MERGED)
        elif call.last == "from_pretrained" and "Peft" in call.name:
            where = first_of(call, "model_id", 1)
            if "config" in call.kwargs:
                draft.instead(call.lines["config"], "config", call.kwargs["config"], *_MERGED)
            draft.instead(
                call.line,
                "model_id",
                where,
                "sapwood chat RUN: base and template are checked",
                "`sapwood chat RUN`：会核对基座与模板",
            )
        elif call.last == "print_trainable_parameters":
            draft.instead(
                call.line,
                call.last,
                "",
                "`sapwood check` tells it before a weight is loaded",
                "`sapwood check` 在加载权重前就给出",
            )


def first_of(call: Call, name: str, at: int) -> Any:
    return call.kwargs.get(name, call.args[at] if len(call.args) > at else "")


def _shown(value: Any) -> Any:
    if isinstance(value, Special):
        return {"eos": "eos_token", "unk": "unk_token", "bos": "bos_token"}.get(value.name, value.name)
    return value


def _adapter(draft: Draft, facts: Facts) -> None:
    call = facts.adapter
    given = next((c for c in (facts.trainer, *facts.calls("get_peft_model")) if c and _adapts(c)), None)
    if call is None and given is not None:
        said = "which adapter it is isn't known here: set lora", "不知道是什么适配器：请设置 lora"
        draft.unread(given.lines.get("peft_config", given.line), "peft_config", "", *said)
        return
    if call is None:
        where = facts.trainer or facts.arguments or facts.optimizer
        if where is not None:
            said = "no adapter is made: the whole base is trained", "没有适配器：训练整个基座"
            draft.take("lora.method", "full", where.line, "no adapter", "", *said)
        return
    method = PEFT.get(call.last, "lora")
    if method not in ("lora", "prefix", "prompt", "p-tuning", "ia3"):
        draft.unread(
            call.line,
            call.last,
            method,
            "no such method here: lora.method lists them",
            "这里没有这个方法：见 lora.method",
        )
        return
    draft.take("lora.method", method, call.line, call.last, method)
    if method == "lora":
        apply_all(draft, "hf:lora", call, skip=("config",))
        if "Fast" in call.name:
            for key, value in (("lora.rank", 16), ("lora.alpha", 16), ("lora.dropout", 0.0)):
                draft.default(key, value, "", "the other tool's default", "原工具的默认值")
        elif "**" not in call.kwargs:
            defaults(draft, "hf:lora")
        if "**" not in call.kwargs and call.kwargs.get("target_modules") is None:
            _default_targets(draft, facts)
    else:
        apply_all(draft, "hf:lora", call)


def _adapts(call: Call) -> bool:
    """Whether a call is given an adapter's settings."""
    return call.last == "get_peft_model" or call.kwargs.get("peft_config") is not None


_PEFT_TARGETS = (  # PEFT's table, by names of models; all others in it have q_proj and v_proj
    (r"bloom|pythia|gpt-?neox|dolly|falcon|redpajama", ["query_key_value"]),
    (r"^gpt2|/gpt2|distilgpt2|dialogpt|starcoder(?!2)|santacoder|bigcode", ["c_attn"]),
    (r"\bmpt\b", ["Wqkv"]),
    (r"codegen-|codegen2", ["qkv_proj"]),
    (r"phi-?[12]\b|phi-1_5", ["q_proj", "v_proj", "fc1", "fc2"]),
)


def _default_targets(draft: Draft, facts: Facts) -> None:
    """peft's own table: attention only, by the architecture's name."""
    name = str(facts.model_id or draft.settings.get("base.model", "")).lower()
    en, zh = "not set: what peft chooses for this architecture", "未设置：peft 为该架构选的默认值"
    if facts.in_unsloth:
        draft.default(
            "lora.targets",
            "all-linear",
            "target_modules",
            "not set: the seven of each layer",
            "未设置：每层七个",
        )
    elif not name:
        said = "peft chooses by the model: set lora.targets", "peft 按模型选择：请设置 lora.targets"
        draft.unread(facts.adapter.line if facts.adapter else 0, "target_modules", "", *said)
    elif "chatglm" in name or "glm-4" in name:
        draft.default(
            "lora.targets", ["q_proj", "k_proj", "v_proj"], "target_modules", f"{en} (query_key_value)", zh
        )
    else:
        known = next(
            (names for words, names in _PEFT_TARGETS if re.search(words, name)), ["q_proj", "v_proj"]
        )
        draft.default("lora.targets", known, "target_modules", en, zh)


def _trackers(draft: Draft, facts: Facts) -> None:
    for call in facts.script.calls:
        tracker = _TRACKERS.get(call.last)
        if tracker is None or (
            call.last == "init" and call.name.split(".")[0] not in ("wandb", "swanlab", "trackio")
        ):
            continue
        tracker = tracker or call.name.split(".")[0]
        before = draft.settings.get("track.to", [])
        if tracker not in before:
            draft.take("track.to", [*before, tracker], call.line, call.name.rpartition(".")[2], tracker)
        project = call.kwargs.get("project")
        if isinstance(project, str):
            CONVERT["project"](draft, "project", project, call.lines.get("project", call.line), "", "")
        elif isinstance(project, (Unknown, Attr)):
            draft.unread(
                call.line, "project", project, "its value isn't known before it runs", "运行之前不知道它的值"
            )
