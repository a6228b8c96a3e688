"""How the rows of a script become text: template, columns, what is learnt."""

from __future__ import annotations

import re

from sapwood.migrate.calls.chat import read_template
from sapwood.migrate.calls.facts import Facts
from sapwood.migrate.calls.rows import read_held_out, read_source_of_rows
from sapwood.migrate.convert import CONVERT
from sapwood.migrate.draft import Draft
from sapwood.migrate.formatting.learning import SHAPES, Learning
from sapwood.migrate.formatting.recognise import recognise
from sapwood.migrate.script.values import is_plain

_BASES = (
    (r"llama-?2|llama2", "llama-2-chat"), (r"gemma-?2|gemma-2b|gemma-7b", "gemma-2"), (r"chatglm3",
    "chatglm3"),
)  # fmt: skip


def read_rows(draft: Draft, facts: Facts) -> Learning | None:
    read_source_of_rows(draft, facts)
    read_held_out(draft, facts)
    learning = (
        recognise(facts.formatting, _text_field(facts), (facts.model_id or "").lower())
        if facts.formatting
        else None
    )
    if learning is not None and facts.formatting is not None:
        _learning(draft, facts, learning)
    else:
        _as_they_are(draft, facts)
    read_template(draft, facts)
    _tokenizer_length(draft, facts)
    return learning


def _tokenizer_length(draft: Draft, facts: Facts) -> None:
    """What the tokenizer cuts to, if nothing else says a length."""
    call = facts.tokenizer
    if call is None or "model_max_length" not in call.kwargs or "pack.length" in draft.settings:
        return
    value, line = call.kwargs["model_max_length"], call.lines["model_max_length"]
    CONVERT["length"](draft, "model_max_length", value, line, "", "")


def _text_field(facts: Facts) -> str:
    field = facts.argument("dataset_text_field")
    return field if isinstance(field, str) else ""


def _learning(draft: Draft, facts: Facts, learning: Learning) -> None:
    line = learning.prompt_line or learning.line
    _template(draft, facts, learning, line)
    columns = {ours: theirs for ours, theirs in learning.columns.items() if ours != theirs}
    said = ", ".join(dict.fromkeys(learning.columns.values()))
    if columns:
        draft.take(
            "data.columns",
            columns if not learning.form else dict(columns.items()),
            line,
            learning.name,
            said,
            "the columns that the function reads",
            "函数读取的列",
        )
    elif learning.columns:
        draft.note("data.format", line, learning.name, said, "found by the keys", "按键名识别")
    if learning.system is not None:
        draft.take(
            "data.system",
            learning.system,
            learning.system_line or line,
            "system",
            learning.system,
            "kept with the adapter, and used when it answers",
            "随适配器保存，推理时同样使用",
        )
    if learning.columns and not columns and learning.form:
        draft.settings["data.format"] = learning.form
    limits = [(cut[0], cut[1]) for cut in learning.cuts] + [(one.limit, one.line) for one in learning.limits]
    for value, at in limits[:1]:
        if isinstance(value, int) and value >= 16:
            draft.take(
                "pack.length",
                value,
                at,
                "max_length",
                value,
                "longer rows stop the run by name; nothing is ever cut",
                "超长的行会被点名；从不截断",
            )
        elif not is_plain(value):
            draft.unread(
                at,
                "max_length",
                value,
                "its value isn't known: set pack.length",
                "不知道它的值：请设置 pack.length",
            )
    if learning.fillers and not limits:
        draft.instead(
            learning.fillers[0].line, "padding", "", "rows are packed, not padded", "样本打包而不填充"
        )
    _trained(draft, facts, learning)
    if learning.resists and not learning.columns and not learning.own:
        _not_found(draft, facts)
    for at, why in learning.resists:
        draft.resists.append(
            (at, why, "this part of the function couldn't be followed", "函数的这一部分无法跟踪")
        )


def _template(draft: Draft, facts: Facts, learning: Learning, line: int) -> None:
    if learning.family:
        shape = SHAPES[learning.family]
        if shape.own:
            draft.take("template.name", learning.family, line, learning.name, learning.family)
        else:
            draft.take(
                "template.name",
                "auto",
                line,
                learning.name,
                learning.family,
                "the tokenizer's own, which is this one",
                "分词器自带的就是它",
            )
    elif learning.own:
        draft.take(
            "template.name",
            "auto",
            line,
            learning.name,
            "apply_chat_template",
            "the tokenizer's own, in training and in chat",
            "训练与对话都用分词器自己的模板",
        )
    elif learning.jinja:
        draft.template = learning.jinja
        draft.take(
            "template.name",
            "@template",
            line,
            learning.name,
            learning.begins[:20],
            "no published family's: written out beside the config",
            "不属于任何公开模板：已写成文件",
        )


def _trained(draft: Draft, facts: Facts, learning: Learning) -> None:
    """Take the collator's labels, if the formatting function makes none."""
    if learning.learnt == "assistant" or facts.has(
        "train_on_responses_only", "DataCollatorForCompletionOnlyLM"
    ):
        draft.take(
            "template.train_on",
            "assistant",
            learning.answer_line,
            "labels",
            "the answer",
            "the answers and their stop token, proven before step 0",
            "回答及其结束符，开始前已验证",
        )
    elif learning.columns.keys() <= {"text"} and learning.columns:
        if _text_field(facts) or (
            facts.trainer is not None and facts.trainer.last in ("SFTTrainer", "UnslothTrainer")
        ):
            _as_they_are(draft, facts)
        else:
            draft.settings["data.format"] = "text"
            draft.take(
                "template.train_on",
                "all",
                learning.line,
                "labels",
                "the whole text",
                "documents: all is learnt",
                "文档：学全文",
            )
    else:
        draft.take(
            "template.train_on",
            "assistant",
            learning.answer_line or learning.line,
            "labels",
            "the whole text",
            "the answers only; set all to learn the prompt too, as there",
            "只学回答；若要像原脚本一样连提示词也学，设为 all",
        )


def _not_found(draft: Draft, facts: Facts) -> None:
    """Note a trainer that takes ids, if nothing was found that makes them."""
    call = facts.trainer or facts.optimizer
    if call is not None and (call is facts.optimizer or call.last in ("Trainer", "Seq2SeqTrainer")):
        draft.unread(
            call.lines.get("train_dataset", call.line),
            "train_dataset",
            "",
            "how its rows become text couldn't be followed: set data.columns, template.name and pack.length",
            "无法跟踪样本如何变成文本：请设置 data.columns、template.name 与 pack.length",
        )


def _as_they_are(draft: Draft, facts: Facts) -> None:
    """Rows that no function formats: their shape is found by their keys."""
    field = _text_field(facts)
    if field:
        line = facts.line("dataset_text_field")
        if field != "text":
            draft.take("data.columns", {"text": field}, line, "dataset_text_field", field)
        draft.take(
            "data.format",
            "text",
            line,
            "dataset_text_field",
            field,
            "text that is rendered already is read back into turns",
            "已套好模板的文本会还原成多轮对话",
        )
    if not field and (facts.trainer is None or facts.trainer.last not in ("SFTTrainer", "UnslothTrainer")):
        _not_found(draft, facts)
        return
    if facts.trainer is None:
        return
    shown = "\n".join(block.text for block in facts.source.shown)
    name = next((n for n, s in SHAPES.items() if s.own and s.needs in shown and n != "chatglm3"), "")
    if not name:
        model = (
            str(draft.settings.get("base.model", "")).lower()
            + " "
            + str(draft.settings.get("data.train", "")).lower()
        )
        name = next((family for pattern, family in _BASES if re.search(pattern, model)), "")
    draft.take("template.name", name or "auto", facts.trainer.line, facts.trainer.last, "")
    draft.take(
        "template.train_on",
        "assistant",
        facts.trainer.line,
        "labels",
        "the whole text",
        "the answers only; set all to learn the prompt too, as there",
        "只学回答；若要像原脚本一样连提示词也学，设为 all",
    )
