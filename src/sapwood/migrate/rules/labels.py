"""Rules of the formatting function: template, labels, ends, cuts, padding."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from sapwood.migrate.formatting.learning import SHAPES, Learning
from sapwood.migrate.rules.rule import Case, Hit, hit, rule
from sapwood.migrate.script.values import Encoded, Field, Filler, Special, Unknown

_LM = "DataCollatorForLanguageModeling"
_FAMILIES = (
    (r"gemma", "gemma-2"), (r"llama-?2|vicuna", "llama-2-chat"), (r"llama-?3", "llama-3"), (r"chatglm3",
    "chatglm3"),
    (r"qwen", "chatml"), (r"phi-?3", "phi-3"), (r"zephyr", "zephyr"),
)  # fmt: skip


def _own_labels(case: Case) -> bool:
    return bool(case.learning and case.learning.learnt)


def _sft(case: Case) -> bool:
    return case.facts.trainer is not None and case.facts.trainer.last in ("SFTTrainer", "UnslothTrainer")


def _answers_only(case: Case) -> bool:
    chosen = (
        case.facts.argument("assistant_only_loss") is True
        or case.facts.argument("completion_only_loss") is True
    )
    return chosen or case.facts.has("DataCollatorForCompletionOnlyLM", "train_on_responses_only")


def _ends(learning: Learning) -> str:
    return "".join(part for part in learning.end if isinstance(part, str))


def _specials(learning: Learning) -> list[Special]:
    return [part for part in learning.end if isinstance(part, Special)]


@rule("end-of-turn-not-learnt")
def end_of_turn(case: Case) -> Iterator[Hit]:
    learning = case.learning
    if learning is None or learning.family not in SHAPES or learning.own or not learning.answer_line:
        return
    end = SHAPES[learning.family].end
    by_eos = learning.family in ("llama-2-chat", "zephyr") and any(
        s.name == "eos" for s in _specials(learning)
    )
    if end and end not in _ends(learning) and not by_eos and end not in [s.name for s in _specials(learning)]:
        yield hit(learning.answer_line, end=end)


@rule("no-end-learnt")
def no_end(case: Case) -> Iterator[Hit]:
    learning = case.learning
    if (
        learning is None
        or learning.family
        or learning.own
        or len(learning.columns) < 2
        or not learning.answer_line
    ):
        return
    known = any(s.name in ("eos", "pad") or s.name.startswith("<") for s in _specials(learning))
    if not known and not re.search(r"</s>|<\|?(?:im_end|end|eot|eos|endoftext|end_of_turn)", _ends(learning)):
        yield hit(learning.answer_line)


@rule("pad-as-end")
def pad_as_end(case: Case) -> Iterator[Hit]:
    for part in _specials(case.learning) if case.learning else ():
        if part.name == "pad":
            yield hit(part.line or case.learning.end_line if case.learning else 0)


@rule("end-doubled")
def end_doubled(case: Case) -> Iterator[Hit]:
    learning = case.learning
    if learning is None or learning.family not in SHAPES:
        return
    end = SHAPES[learning.family].end
    extra = [s for s in _specials(learning) if s.name in ("eos", "pad")]
    if end and end in _ends(learning) and extra:
        yield hit(extra[0].line or learning.end_line, end=end)


@rule("pad-is-eos")
def pad_is_eos(case: Case) -> Iterator[Hit]:
    if case.facts.pad_is_eos and _own_labels(case) and not case.facts.has(_LM):
        yield hit(case.facts.pad_is_eos)


@rule("pad-is-eos-unlearnt")
def pad_is_eos_unlearnt(case: Case) -> Iterator[Hit]:
    masked = case.facts.has(_LM) or (
        _sft(case) and not _own_labels(case) and not case.facts.has("DataCollatorForSeq2Seq")
    )
    if case.facts.pad_is_eos and masked and not case.facts.in_unsloth:
        yield hit(case.facts.pad_is_eos)


@rule("answer-cut-with-end")
def answer_cut(case: Case) -> Iterator[Hit]:
    learning = case.learning
    if learning is not None and learning.cuts:
        yield hit(
            learning.cuts[0][1], limit=learning.cuts[0][0] if isinstance(learning.cuts[0][0], int) else "…"
        )
        return
    for one in learning.limits if learning is not None else ():
        whole = (
            any(isinstance(p, Field) for p in one.text.parts) and len(learning.limits) == 1
            if learning
            else False
        )
        if whole and one.cuts and learning is not None and learning.answer_line == one.text.line:
            yield hit(one.line, limit=one.limit if isinstance(one.limit, int) else "…")
            return
    for name in ("max_seq_length", "max_length"):
        value = case.facts.argument(name)
        if _sft(case) and isinstance(value, int):
            yield hit(case.facts.line(name), limit=value)
            return


@rule("only-prompt-cut")
def only_prompt(case: Case) -> Iterator[Hit]:
    formatting = case.facts.formatting
    for way in formatting.ways if formatting else ():
        ids = way.result.get("input_ids") if isinstance(way.result, dict) else None
        parts = [part for part in getattr(ids, "parts", ()) if isinstance(part, Encoded)]
        if parts and parts[-1].limit is None:
            yield from (hit(part.line) for part in parts[:-1] if part.limit is not None)


@rule("negative-padding")
def negative(case: Case) -> Iterator[Hit]:
    for filler in _pads(case):
        if isinstance(filler.times, Unknown) and "-" in filler.times.text and "max(" not in filler.times.text:
            yield hit(filler.times.line)


def _pads(case: Case) -> list[Filler]:
    fillers = case.learning.fillers if case.learning else []
    return [filler for filler in fillers if isinstance(filler.value, Special) and filler.value.name == "pad"]


@rule("padded-to-constant")
def constant(case: Case) -> Iterator[Hit]:
    limit = case.draft.settings.get("pack.length", "…")
    for filler in _pads(case)[:1]:
        yield hit(filler.line, limit=limit)
    ids = [
        one
        for way in (case.facts.formatting.ways if case.facts.formatting else ())
        for one in _encoded(way.result)
    ]
    for one in ids:
        if one.padding == "max_length":
            yield hit(one.line, limit=one.limit if isinstance(one.limit, int) else limit)


def _encoded(result: object) -> list[Encoded]:
    from sapwood.migrate.script.values import as_ids

    value = result.get("input_ids") if isinstance(result, dict) else result
    ids = as_ids(value) if value is not None else None
    return [part for part in ids.parts if isinstance(part, Encoded)] if ids else []


@rule("no-attention-mask")
def no_mask(case: Case) -> Iterator[Hit]:
    learning = case.learning
    if learning is not None and learning.is_ids and not learning.has_mask and _pads(case):
        formatting = case.facts.formatting
        nodes = ast.walk(formatting.function.node) if formatting is not None else ()
        yield hit(max((n.lineno for n in nodes if isinstance(n, ast.Return)), default=learning.line))


@rule("collator-pads-nothing")
def pads_nothing(case: Case) -> Iterator[Hit]:
    for call in case.facts.calls("DataCollatorForSeq2Seq"):
        if call.kwargs.get("padding", True) is False:
            yield hit(call.lines["padding"])


@rule("ignore-by-pad-id")
def by_pad_id(case: Case) -> Iterator[Hit]:
    learning = case.learning
    for mask in learning.masks if learning else ():
        if isinstance(mask.equal, Special) and mask.equal.name == "pad":
            yield hit(mask.line)
    if learning is not None and learning.sentinel:
        yield hit(learning.sentinel)


@rule("loss-on-prompt")
def on_prompt(case: Case) -> Iterator[Hit]:
    learning, facts = case.learning, case.facts
    if _answers_only(case):
        return
    if learning is not None and learning.learnt == "all":
        yield hit(learning.answer_line or learning.line)
    elif facts.trainer is not None and not _own_labels(case):
        pairs = learning is not None and set(learning.columns) >= {"prompt", "completion"} and learning.own
        text = _sft(case) and not pairs
        if text or facts.has(_LM):
            yield hit(facts.trainer.line)


@rule("template-differs")
def differs(case: Case) -> Iterator[Hit]:
    learning = case.learning
    if learning is not None and learning.differs is not None and learning.family:
        expected, found = (repr(one)[1:-1] for one in learning.differs)
        line = learning.system_line or learning.prompt_line
        yield hit(line, family=learning.family, expected=expected[:160], found=found[:160])


@rule("template-of-another-family")
def other_family(case: Case) -> Iterator[Hit]:
    learning = case.learning
    own = next((family for pattern, family in _FAMILIES if re.search(pattern, case.model)), "")
    if learning is not None and learning.family and own and not learning.own and learning.family != own:
        yield hit(learning.prompt_line or learning.line, found=learning.family, expected=own)


@rule("template-drift")
def drift(case: Case) -> Iterator[Hit]:
    learning = case.learning
    outside = [line for _, line in case.facts.script.chats if not in_function(case, line)]
    if learning is not None and learning.family and not learning.own and outside:
        yield hit(learning.prompt_line or learning.line)


def in_function(case: Case, line: int) -> bool:
    node = case.facts.formatting.function.node if case.facts.formatting else None
    return node is not None and node.lineno <= line <= (node.end_lineno or node.lineno)


@rule("bos-twice")
def bos_twice(case: Case) -> Iterator[Hit]:
    learning, facts = case.learning, case.facts
    begins = ("<s>", "<bos>", "<|begin_of_text|>")
    if learning is not None and learning.begins.startswith(begins):
        if learning.own_bos or (not learning.is_ids and facts.trainer is not None and _sft(case)):
            yield hit(learning.prompt_line or learning.line)
    elif learning is None and _sft(case) and facts.argument("dataset_text_field"):
        shown = any(block.text.lstrip().startswith(begins) for block in facts.source.shown)
        known = "llama2" in str(case.draft.settings.get("data.train", "")).lower()
        if shown or known:
            yield hit(facts.line("dataset_text_field"))


@rule("fields-glued")
def glued(case: Case) -> Iterator[Hit]:
    learning = case.learning
    if learning is not None and learning.glued:
        yield hit(learning.prompt_line, first=_columns(learning)[0], second=_columns(learning)[1])


def _columns(learning: Learning) -> list[str]:
    return [*(v for k, v in learning.columns.items() if k not in ("output", "completion")), "…", "…"]


@rule("null-field")
def null(case: Case) -> Iterator[Hit]:
    """`a + b` of two columns, or a join of them."""
    formatting = case.facts.formatting
    for node in ast.walk(formatting.function.node) if formatting else ():
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            sides = (node.left, node.right)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
            first = node.args[0] if node.args else None
            sides = tuple(first.elts) if isinstance(first, ast.List) else ()
        else:
            continue
        names = [_column(side, formatting.function.parameters) for side in sides] if formatting else []
        if len(names) == 2 and all(names):
            yield hit(node.lineno, second=names[1])


def _column(node: ast.expr, rows: list[str]) -> str:
    if (
        isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.value, ast.Name)
    ):
        return str(node.slice.value) if node.value.id in rows else ""
    return ""


@rule("column-always-there")
def always(case: Case) -> Iterator[Hit]:
    formatting = case.facts.formatting
    if formatting is None or not case.facts.has("from_pandas", "read_json", "DataFrame"):
        return
    for way in formatting.ways:
        for text, _, line in way.supposed:
            if re.fullmatch(r"'\w+' in \w+", text):
                yield hit(line)


@rule("encode-of-ids")
def encode_of_ids(case: Case) -> Iterator[Hit]:
    yield from map(hit, case.facts.script.encoded_ids)
