"""Conversations and templates that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sapwood.errors import DataError, Problem
from sapwood.template.families import choose_template
from sapwood.template.learnt.label import label_encoded
from sapwood.template.proof import Proof
from sapwood.template.prove import Labelled, Prover, proof_of
from sapwood.template.render import Renderer
from sapwood.template.truth import Truths
from sapwood.types import Conversation, Example, Message, Rendered, RowId
from tests.base.tiny import CHATML, tiny_tokenizer
from tests.template.real_tokenizers import gguf_tokenizer, real_tokenizer

CLOCK = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)

# A template in the manner of Qwen3: reasoning is shown for the last answer only, so history is rewritten.
THINKING = (
    "{%- set ns = namespace(last=0) %}"
    "{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{%- for m in messages %}"
    "{%- set content = m.content %}"
    "{%- set thought = '' %}"
    "{%- if m.reasoning_content is string %}{% set thought = m.reasoning_content %}"
    "{%- elif m.role == 'assistant' and '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}"
    "{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\\n' }}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}"
    "{%- endif %}"
    "{{- content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"
)

MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

DATED = "{{ '<|im_start|>system\\n' + strftime_now('%d %b %Y') + '<|im_end|>\\n' }}" + CHATML

MISBEHAVING = {
    "trims content": CHATML.replace("message['content'] +", "message['content'] | trim +"),
    "drops the system message": (
        "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}" + CHATML
    ),
    "always appends a generation prompt": CHATML.replace("{% if add_generation_prompt %}", "{% if true %}"),
    "rewrites history": THINKING,
    "writes no stop token": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "writes no stop token but a newline": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "stops only between turns": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% if not loop.last %}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_end|>\n<|im_start|>assistant\n{% endif %}"
    ),
    "shows the answers' number": "{{ '<|im_start|>system\\n' ~ (messages | length) ~ '<|im_end|>\\n' }}"
    + CHATML,
    "asks for the date": DATED,
    "marks its answers": MARKED,
    "marks answers without their stop token": MARKED.replace(
        "<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>"
    ),
    "writes the end of text after the end of turn": CHATML.replace(
        "'<|im_end|>'", "'<|im_end|><|endoftext|>'"
    ),
}


def chat(*texts: str, system: str | None = None, index: int = 0, **last: Any) -> Conversation:
    """User and assistant in turns; ``last`` sets fields of the last message."""
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], text) for i, text in enumerate(texts[:-1])]
    messages.append(Message(roles[(len(texts) - 1) % 2], texts[-1], **last))
    if system is not None:
        messages.insert(0, Message("system", system))
    return Conversation(RowId("data.json", index, index + 1), tuple(messages))


@cache
def tiny(template: str = CHATML, extra: tuple[str, ...] = ()) -> Renderer:
    """A renderer over the tiny tokenizer; ``extra`` are added, non-special tokens."""
    from tokenizers import AddedToken

    tokenizer = tiny_tokenizer(template)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in extra])
    return Renderer(tokenizer, stop_ids=(2,), clock=CLOCK)


FAMILY = {"gemma2": "gemma-2", "qwen1_5": "auto", "chatglm3": "auto", "llama2": "llama-2-chat"}
GGUF = {"smollm2": "auto", "gemma3-270m": "auto"}
NO_SYSTEM = ("gemma2", "gemma3-270m")


@cache
def real(name: str) -> Renderer:
    """A renderer over a real tokenizer with its own template, or with its family's where it has none."""
    tokenizer = gguf_tokenizer(name) if name in GGUF else real_tokenizer(name)
    return Renderer(tokenizer, choose_template(tokenizer, {**FAMILY, **GGUF}[name]), clock=CLOCK)


def learnt(renderer: Renderer, conversation: Conversation) -> list[str]:
    """The text of each span."""
    return [
        rendered.text[span.start : span.stop]
        for rendered in renderer.render(conversation)
        for span in rendered.spans
    ]


def label(rendered: Rendered, renderer: Renderer) -> Example:
    """One rendered conversation as an example. Raises DataError."""
    return label_encoded(rendered, renderer.encode(rendered))


def prove(items: Sequence[Labelled], renderer: Renderer, *, vocab_rows: int) -> Proof:
    """Check every example. Raises DataError with all violations."""
    prover = Prover(renderer, vocab_rows)
    truths = Truths(renderer).about([(item.conversation, item.rendering) for item in items])
    problems: list[Problem] = []
    for item, truth in zip(items, truths, strict=True):
        for fault in prover.check(item, truth):
            problems += prover.fault(item.conversation.row, fault)
        prover.check_said(item)
    problems += [found.problem(code) for code, found in prover.tally.shared.items()]
    if problems:
        raise DataError(problems)
    prover.count(items)
    return proof_of(prover.tally, renderer)
