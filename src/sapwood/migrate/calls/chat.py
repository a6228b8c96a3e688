"""The chat template that a script gives its tokenizer, in place of the tokenizer's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sapwood.migrate.calls.facts import Facts, first
from sapwood.migrate.draft import Draft
from sapwood.migrate.script.values import Special

_OURS = {
    "chatml": "chatml", "gemma": "gemma-2", "gemma2": "gemma-2", "gemma-2": "gemma-2",
    "llama": "llama-2-chat", "llama-2": "llama-2-chat", "chatglm3": "chatglm3",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Given:
    """by: the call or the attribute. value: a name, the text of a template, or what couldn't be followed."""

    line: int
    by: str
    value: Any


def read_template(draft: Draft, facts: Facts) -> None:
    """Take the last template that the script gives, if the tokenizer's own would be taken otherwise."""
    given = max(_given(facts), key=lambda one: one.line, default=None)
    if given is None or draft.settings.get("template.name", "auto") != "auto":
        return
    draft.forget("template.name")
    if isinstance(given.value, str) and "{%" in given.value:
        draft.template = given.value
        said = "written out beside the config, as it is in the script", "照原样写成文件，放在配置旁边"
        draft.take("template.name", "@template", given.line, given.by, "", *said)
    elif isinstance(given.value, str) and (ours := _named(given.value, facts)):
        draft.take("template.name", ours, given.line, given.by, given.value)
    elif not isinstance(given.value, Special) and given.value is not None:
        said = (
            "which template it is isn't known here: set template.name",
            "不知道是哪个模板：请设置 template.name",
        )
        draft.unread(given.line, given.by, given.value, *said)


def _given(facts: Facts) -> list[_Given]:
    out = [_Given(one.line, one.name, one.value) for one in facts.assigned("chat_template")]
    out += [
        _Given(call.line, call.last, call.kwargs.get("format", "chatml"))
        for call in facts.calls("setup_chat_format")
    ]
    for call in facts.calls("get_chat_template"):
        named = call.kwargs.get("chat_template", call.args[1] if len(call.args) > 1 else "chatml")
        out.append(_Given(call.line, call.last, named))
    for call in facts.calls("clone_chat_template"):
        source = call.kwargs.get("source_tokenizer_path", call.args[2] if len(call.args) > 2 else None)
        out.append(_Given(call.line, call.last, source if source is not None else first(call)))
    if facts.line("chat_template_path"):
        out.append(
            _Given(
                facts.line("chat_template_path"), "chat_template_path", facts.argument("chat_template_path")
            )
        )
    return out


def _named(name: str, facts: Facts) -> str:
    """Our template of that name; auto if it is the model's own family; a .jinja file as it is; else
    nothing."""
    if name.lower() in _OURS:
        return _OURS[name.lower()]
    family = re.match(r"[a-z]+-?\d?", name.lower())
    model = re.sub(r"[^a-z0-9]", "", (facts.model_id or "").lower())
    if family is not None and "/" not in name and family[0].replace("-", "") in model:
        return "auto"
    return name if name.endswith(".jinja") else ""
