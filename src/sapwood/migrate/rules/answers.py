"""Rules of what a script does with the trained model: loading, asking, saving."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from sapwood.migrate.calls.facts import first
from sapwood.migrate.rules.rule import Case, Hit, hit, rule
from sapwood.migrate.script.values import Call, Special, Unknown, dotted

_OWN = r"llama-?[23]|gemma|qwen1\.5|qwen2|qwen3|mistral|mixtral|phi-?[34]|smollm|glm-4-9b-chat-hf"
_BASE_ONLY = r"(chat|instruct|-it\b|zephyr|vicuna|sft|rlhf|assistant)"


def _nodes(case: Case) -> Iterator[ast.AST]:
    for tree in case.facts.source.trees:
        yield from ast.walk(tree)


@rule("answer-by-string")
def by_string(case: Case) -> Iterator[Hit]:
    for call in case.facts.script.calls:
        if call.last == "split" and "decode" in call.name and call.args and isinstance(call.args[0], str):
            yield hit(call.line, word=repr(call.args[0]))


@rule("decode-keeps-tags")
def keeps_tags(case: Case) -> Iterator[Hit]:
    made = case.facts.generate
    for call in case.facts.script.calls if made else ():
        if call.last in ("decode", "batch_decode") and call.kwargs.get("skip_special_tokens") is not True:
            text = " ".join(map(dotted, call.args))
            if "generate" in text and len(call.args) < 2:
                yield hit(call.line)


@rule("special-tokens-again")
def again(case: Case) -> Iterator[Hit]:
    yield from map(hit, case.facts.script.retokenized)


@rule("generate-no-mask")
def no_mask(case: Case) -> Iterator[Hit]:
    for call in case.facts.calls("generate"):
        given = "input_ids" in call.kwargs or (call.args and "**" not in call.kwargs)
        if (
            case.facts.pad_is_eos
            and given
            and "attention_mask" not in call.kwargs
            and "**" not in call.kwargs
        ):
            yield hit(call.line)


@rule("device-hard-coded")
def device(case: Case) -> Iterator[Hit]:
    for node in _nodes(case):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            named = (
                node.args
                and isinstance(node.args[0], ast.Constant)
                and str(node.args[0].value).startswith("cuda")
            )
            if (node.func.attr == "to" and named) or (node.func.attr == "cuda" and not node.args):
                yield hit(node.end_lineno or node.lineno)


@rule("device-map-differs")
def maps(case: Case) -> Iterator[Hit]:
    trained = case.facts.base.kwargs.get("device_map") if case.facts.base else None
    for call in case.facts.answering:
        asked = call.kwargs.get("device_map")
        if isinstance(trained, str) and asked == "auto" and trained != "auto":
            yield hit(call.lines["device_map"], trained=trained, asked=asked)


@rule("adapter-config-replaced")
def replaced(case: Case) -> Iterator[Hit]:
    for call in case.facts.calls("from_pretrained"):
        if "Peft" in call.name and "config" in call.kwargs:
            yield hit(call.lines["config"])


@rule("fixed-checkpoint")
def checkpoint(case: Case) -> Iterator[Hit]:
    for node in _nodes(case):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = re.search(r"checkpoint-\d+", node.value)
            if match and len(node.value) < 300:
                yield hit(node.lineno, name=match[0])


@rule("adapter-without-tokenizer")
def no_tokenizer(case: Case) -> Iterator[Hit]:
    saved = [
        c for c in case.facts.script.calls if c.last in ("save_pretrained", "save_model") and c.of is not None
    ]
    tokenizers = [c for c in saved if "okenizer" in dotted(c.of) or "okenizer" in c.name]
    given = case.facts.argument("processing_class") or case.facts.argument("tokenizer")
    for call in saved:
        by_trainer = call.last == "save_model" and given is not None
        if call not in tokenizers and not tokenizers and case.facts.adapter is not None and not by_trainer:
            yield hit(call.line)


@rule("saved-among-checkpoints")
def among(case: Case) -> Iterator[Hit]:
    folder = case.facts.argument("output_dir")
    for call in case.facts.script.calls:
        where = first(call, "save_directory", "output_dir")
        same = where == folder or (
            isinstance(where, Unknown) and isinstance(folder, Unknown) and where.text == folder.text
        )
        if call.last == "save_pretrained" and call.of is not None and folder is not None and same:
            yield hit(call.line)


# --- loading ----------------------------------------------------------------------------------------------


def _loads(case: Case) -> list[Call]:
    found = [case.facts.base, *case.facts.answering, *case.facts.calls("from_pretrained")]
    return list(dict.fromkeys(c for c in found if c is not None))


@rule("remote-code-unpinned")
def remote(case: Case) -> Iterator[Hit]:
    for call in _loads(case):
        pinned = "revision" in call.kwargs or re.search(_OWN, case.model)
        if call.kwargs.get("trust_remote_code") is True and not pinned:
            yield hit(call.lines["trust_remote_code"])


@rule("remote-code-needless")
def needless(case: Case) -> Iterator[Hit]:
    for call in _loads(case):
        if call.kwargs.get("trust_remote_code") is True and re.search(_OWN, case.model):
            yield hit(call.lines["trust_remote_code"])


@rule("base-unpinned")
def unpinned(case: Case) -> Iterator[Hit]:
    fetched = case.facts.download
    if fetched is not None:
        name = first(fetched, "model_id", "repo_id")
        if isinstance(name, str) and "revision" not in fetched.kwargs:
            yield hit(fetched.line, name=name)
        return
    base, name = case.facts.base, case.facts.model_id
    hub = str(case.draft.settings.get("base.model", "")).startswith(("hf:", "ms:"))
    if base is not None and name is not None and hub and "revision" not in base.kwargs:
        line = next(
            (base.lines[k] for k in ("pretrained_model_name_or_path", "model_name") if k in base.lines),
            base.line,
        )
        yield hit(_literal_line(case, name, line), name=name)


def _literal_line(case: Case, name: str, line: int) -> int:
    """The line of a name inside a call that begins at `line`."""
    near = range(line, min(line + 6, len(case.facts.source.lines)) + 1)
    return next((n for n in near if name in case.facts.source.text(n)), line)


@rule("chat-on-base")
def on_base(case: Case) -> Iterator[Hit]:
    name = (case.facts.model_id or "").lower()
    chat = (case.learning is not None and case.learning.family) or case.draft.settings.get(
        "template.name"
    ) in (
        "llama-2-chat",
        "gemma-2",
        "chatml",
    )
    raw = re.search(r"llama-2|gemma|qwen|mistral", name) and not re.search(_BASE_ONLY, name)
    if chat and raw and case.facts.base is not None and "/" in name:
        yield hit(_literal_line(case, case.facts.model_id or "", case.facts.base.line))


@rule("gemma2-sdpa")
def sdpa(case: Case) -> Iterator[Hit]:
    base = case.facts.base
    if base is not None and re.search(r"gemma-?2-", case.model) and "attn_implementation" not in base.kwargs:
        yield hit(base.line)


@rule("slow-tokenizer")
def slow(case: Case) -> Iterator[Hit]:
    found = [c for c in case.facts.calls("from_pretrained") if "okenizer" in c.name]
    for call in found:
        if call.kwargs.get("use_fast") is False:
            yield hit(call.lines["use_fast"])


@rule("fp16-no-scaling")
def no_scaling(case: Case) -> Iterator[Hit]:
    base = case.facts.base
    for name in ("torch_dtype", "dtype"):
        value = base.kwargs.get(name) if base is not None else None
        half = (
            value is not None
            and not isinstance(value, (bool, Special))
            and _word(value) in ("float16", "half", "fp16")
        )
        quantized = base is not None and any(
            k in base.kwargs for k in ("quantization_config", "load_in_4bit", "load_in_8bit")
        )
        trains = case.facts.trainer is not None and case.facts.argument("fp16") is not True
        if half and trains and not quantized and case.facts.argument("bf16") is not True and base is not None:
            yield hit(base.lines[name])


def _word(value: object) -> str:
    return (value if isinstance(value, str) else dotted(value)).rpartition(".")[2].lower()


@rule("targets-match-nothing")
def nothing(case: Case) -> Iterator[Hit]:
    wrong = {
        r"llama|mistral|qwen1\.5|qwen2|qwen3|gemma|yi-": {"query_key_value", "c_attn", "W_pack", "c_proj",
        "dense_h_to_4h", "w1", "w2"},
        r"chatglm|glm-4-9b-chat$|bloom|falcon": {"q_proj", "k_proj", "v_proj", "o_proj", "c_attn"},
        r"qwen-\d|qwen/qwen-": {"q_proj", "k_proj", "v_proj", "query_key_value"},
        r"baichuan": {"q_proj", "k_proj", "v_proj", "query_key_value"},
    }  # fmt: skip
    call = case.facts.adapter
    given: Any = call.kwargs.get("target_modules") if call is not None else None
    if call is None or not isinstance(given, list):
        return
    for pattern, names in wrong.items():
        if re.search(pattern, case.model):
            line = call.lines["target_modules"]
            yield from (hit(line, name=name) for name in given if name in names)
            return


@rule("comment-of-another-model")
def comment(case: Case) -> Iterator[Hit]:
    if not case.facts.model_id:
        return
    for block in case.facts.source.code:
        for i, line in enumerate(block.text.splitlines()):
            said = re.search(
                r"#.*?(llama|qwen|chatglm|baichuan|gemma)\s*(?:分词器|'s tokenizer| tokenizer)",
                line,
                re.IGNORECASE,
            )
            if said and said[1].lower() not in case.model and "LENGTH" in line.upper():
                yield hit(block.first + i, name=said[1])
