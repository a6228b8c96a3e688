"""Go templates derived from Jinja ones: of the built-in families, with real tokenizers where they are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sapwood.errors import DataError, ExportError
from sapwood.export.go_template import go_template, render
from sapwood.types import Message

TALK = (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "你好 🌳"))


def chatml(messages: Sequence[Message]) -> str:
    default = "" if messages[0].role == "system" else "<|im_start|>system\nBe kind.<|im_end|>\n"
    turns = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)
    return f"{default}{turns}<|im_start|>assistant\n"


def llama2(messages: Sequence[Message]) -> str:
    first = f"<<SYS>>\n{messages[0].content}\n<</SYS>>\n\n" if messages[0].role == "system" else ""
    out = ""
    for message in messages[1 if first else 0 :]:
        if message.role == "user":
            out, first = f"{out}<s>[INST] {first}{message.content} [/INST]", ""
        else:
            out = f"{out} {message.content} </s>"
    return out


def gemma(messages: Sequence[Message]) -> str:
    if messages[0].role == "system":
        raise DataError("no system role")
    roles = {"user": "user", "assistant": "model"}
    turns = (f"<start_of_turn>{roles[m.role]}\n{m.content}<end_of_turn>\n" for m in messages)
    return "<bos>" + "".join(turns) + "<start_of_turn>model\n"


def glm(messages: Sequence[Message]) -> str:
    return "[gMASK]sop" + "".join(f"<|{m.role}|>\n {m.content}" for m in messages) + "<|assistant|>"


@pytest.mark.parametrize(
    ("text", "stop"),
    [(chatml, "<|im_end|>"), (llama2, "</s>"), (gemma, "<end_of_turn>"), (glm, "<|user|>")],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_families_render_as_their_own_template(text, stop: str) -> None:  # type: ignore[no-untyped-def]
    made = go_template(text, stop)
    assert render(made, TALK) == text(TALK)
    if text is not gemma:
        asked = (Message("system", "You are Wren."), *TALK)
        assert render(made, asked) == text(asked)


def test_a_turn_ends_where_its_stop_token_does() -> None:
    made = go_template(chatml, "<|im_end|>")
    assert '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n' in made


def test_a_template_that_counts_is_refused() -> None:
    def counted(messages: Sequence[Message]) -> str:
        return "".join(f"[{i}] {m.content}\n" for i, m in enumerate(messages))

    with pytest.raises(ExportError, match="no Ollama template"):
        go_template(counted, "\n")


def test_braces_of_the_template_are_quoted() -> None:
    def braces(messages: Sequence[Message]) -> str:
        return "".join(f"{{{{{m.role}}}}} {m.content}\n" for m in messages) + "{{assistant}} "

    assert render(go_template(braces, "\n"), TALK) == braces(TALK)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ('{{ if eq .System "" }}none{{ else }}{{ .System }}{{ end }}', "none"),
        ("{{ range $i, $m := .Messages }}{{ $i }}{{ $m.Role }} {{ end }}", "0user 1assistant 2user "),
        ('{{ if or .System (ne (index .Messages 0).Role "user") }}a{{ else if true }}b{{ end }}', "b"),
    ],
)
def test_rendering(template: str, text: str) -> None:
    assert render(template, TALK) == text


@pytest.mark.parametrize(
    "template", ["{{ end }}", "{{ with .X }}", "{{ range .System }}{{ end }}", "{{ (eq 1 1 }}"]
)
def test_what_is_not_known_is_an_error(template: str) -> None:
    with pytest.raises(ValueError):
        render(template, TALK)
