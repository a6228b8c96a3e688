"""The form of calls and of reasoning, asked of templates; and answers taken apart by it, cut anywhere."""

from __future__ import annotations

import json

import pytest

from sapwood.endpoint.api.calls import CallForm, Thinking, call_form, keeps_tools, thinking_of
from sapwood.endpoint.api.reading import Part, Reader
from sapwood.template.render import Renderer
from tests.base.tiny import CHATML, tiny_tokenizer

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
TURN = "<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
HEAD = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}" + TURN
TAIL = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
EACH = "{% for c in m.tool_calls or [] %}"
FORMS = {
    "qwen": (
        EACH + "\n<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}",
        CallForm("<tool_call>", "</tool_call>", "name", "arguments", False),
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>',
    ),
    "llama": (
        EACH
        + '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}{% endfor %}',
        CallForm("", "", "name", "parameters", False),
        '{"name": "weather", "parameters": {"city": "Rome"}}',
    ),
    "mistral": (
        "{% if m.tool_calls %}[TOOL_CALLS][" + EACH + '{"name": "{{ c.function.name }}", "arguments": '
        '{{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}{% endfor %}]{% endif %}',
        CallForm("[TOOL_CALLS]", "", "name", "arguments", True),
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]',
    ),
}


def renderer(calls: str) -> Renderer:
    return Renderer(tiny_tokenizer(HEAD + calls + TAIL))


@pytest.mark.parametrize("name", FORMS)
def test_a_template_tells_how_it_writes_calls(name: str) -> None:
    template, form, _ = FORMS[name]
    assert keeps_tools(renderer(template), TOOLS) and call_form(renderer(template), TOOLS) == form


def test_a_form_without_json_stays_unknown_and_a_template_without_tools_keeps_none() -> None:
    xml = EACH + "<function={{ c.function.name }}>{{ c.function.arguments.values() | join }}{% endfor %}"
    assert call_form(renderer(xml), TOOLS) is None
    assert not keeps_tools(Renderer(tiny_tokenizer(CHATML)), TOOLS)


def read(reader: Reader, text: str, size: int) -> Part:
    parts = [reader.feed(text[i : i + size]) for i in range(0, len(text), size)]
    parts.append(reader.finish())
    content, reasoning = "".join(p.content for p in parts), "".join(p.reasoning for p in parts)
    return Part(content, reasoning, parts[-1].calls)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("name", FORMS)
def test_calls_are_read_however_the_answer_is_cut(name: str, size: int) -> None:
    _, form, text = FORMS[name]
    words = "" if not form.opening else "Let me look. "
    found = read(Reader(None, form), words + text, size)
    assert found.content == words and [(n, json.loads(a)) for n, a in found.calls] == [
        ("weather", {"city": "Rome"})
    ]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_several_calls_are_all_read(size: int) -> None:
    one = FORMS["qwen"][2]
    assert len(read(Reader(None, FORMS["qwen"][1]), one + "\n" + one, size).calls) == 2
    two = '{"name": "a", "parameters": {}}; {"name": "b", "parameters": {}}'
    assert [name for name, _ in read(Reader(None, FORMS["llama"][1]), two, size).calls] == ["a", "b"]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    ["<tool_call>\n{broken", "<tool_call>\n[1]\n</tool_call>", "a <tool_cal", "<b>", "<tool_call>", "a < b"],
)
def test_what_only_looks_like_a_call_is_text(text: str, size: int) -> None:
    assert read(Reader(None, FORMS["qwen"][1]), text, size) == Part(text)


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2", "{", "no {} call"])
def test_json_that_is_no_call_is_text(text: str) -> None:
    assert read(Reader(None, FORMS["llama"][1]), text, 1) == Part(text)


THINK = Thinking("<think>", "</think>")


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("text", "opened", "found"),
    [
        ("<think>\nhm\n</think>\n\nYes.", False, Part("Yes.", "\nhm\n")),
        ("hm\n</think>\n\nYes.", True, Part("Yes.", "hm\n")),
        ("Yes <think> no", False, Part("Yes <think> no")),
        ("<thin ice>", False, Part("<thin ice>")),
        ("hm </thin", True, Part("", "hm </thin")),
        ("", False, Part()),
        ("  <thi", False, Part("  <thi")),
    ],
)
def test_reasoning_is_told_from_the_answer(text: str, opened: bool, found: Part, size: int) -> None:
    assert read(Reader(THINK, None, opened=opened), text, size) == found


def test_calls_after_reasoning_are_read() -> None:
    _, form, text = FORMS["qwen"]
    found = read(Reader(THINK, form), f"<think>hm</think>\n\n{text}", 3)
    assert (found.content, found.reasoning, len(found.calls)) == ("", "hm", 1)


def test_the_tags_of_reasoning_are_the_templates_own() -> None:
    shown = "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    written = HEAD.replace("{{ m.content", shown + "{{ m.content")
    assert thinking_of(Renderer(tiny_tokenizer(written + TAIL))) == THINK
    opened = TAIL.replace("assistant\n", "assistant\n<think>\n")
    hidden = HEAD.replace("{{ m.content or '' }}", "{{ (m.content or '').split('</think>')[-1] }}")
    assert thinking_of(Renderer(tiny_tokenizer(hidden + opened))) == THINK
    assert thinking_of(Renderer(tiny_tokenizer(CHATML))) is None
