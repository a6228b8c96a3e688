"""Chat templates for checkpoints that ship none, by name; and the choice of the template for a tokenizer."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapwood.errors import DataError

MAX_BYTES = 1_000_000  # the longest template seen in a public model has 20,000

_GEMMA_2 = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('Gemma 2 has no system role') }}{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Gemma 2 takes turns: user, assistant, user, assistant') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}
{{- message['content'] | trim }}
{{- '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

_LLAMA_2 = """\
{%- set first = 1 if messages[0]['role'] == 'system' else 0 %}
{%- for message in messages[first:] %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Llama 2 takes turns after the system message: user, assistant, user, assistant') }}
{%- endif %}
{%- if message['role'] == 'user' %}
{{- bos_token + '[INST] ' }}
{%- if loop.first and first %}{{ '<<SYS>>\n' + messages[0]['content'] | trim + '\n<</SYS>>\n\n' }}{% endif %}
{{- message['content'] | trim + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}
{{- ' ' + message['content'] | trim + ' ' + eos_token }}
{%- else %}
{{- raise_exception('Llama 2 knows system, user and assistant, not ' + message['role']) }}
{%- endif %}
{%- endfor %}"""

_CHATGLM_3 = """\
{{- '[gMASK]sop' }}
{%- for message in messages %}
{%- if message['role'] not in ['system', 'user', 'assistant'] %}
{{- raise_exception('ChatGLM3 knows system, user and assistant, not ' + message['role']) }}
{%- endif %}
{{- '<|' + message['role'] + '|>\n ' + message['content'] }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

_CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


@dataclass(frozen=True, slots=True)
class Family:
    """A published prompt format. ``needs``: tokens that its marks have to be; else the marks would be mere
    text.

    ``telling`` is True if having those tokens leaves no doubt about the family.
    """

    template: str
    needs: tuple[str, ...]
    telling: bool = True


FAMILIES = {
    "gemma-2": Family(_GEMMA_2, ("<start_of_turn>", "<end_of_turn>")),
    "llama-2-chat": Family(_LLAMA_2, ("<s>", "</s>"), telling=False),
    "chatglm3": Family(_CHATGLM_3, ("[gMASK]", "sop", "<|system|>", "<|user|>", "<|assistant|>")),
    "chatml": Family(_CHATML, ("<|im_start|>", "<|im_end|>")),
}


def choose_template(tokenizer: Any, name: str) -> str | None:
    """The Jinja text for ``template.name``; None stands for the tokenizer's own.

    ``auto`` takes the tokenizer's own, or a built-in family if its tokens leave no doubt. Otherwise a
    family's name, or the path of a ``.jinja`` file. Raises DataError.
    """
    if name == "auto":
        return None if tokenizer.chat_template else _detect(tokenizer)
    if name in FAMILIES:
        return _fitting(tokenizer, name)
    if name.endswith(".jinja"):
        return _read(Path(name))
    near = difflib.get_close_matches(name, ["auto", *FAMILIES], n=1)
    raise DataError(
        f"no template is named {name!r}",
        "template.name",
        mend=f"did you mean {near[0]}?" if near else f"choose auto, {_names()}, or a .jinja file",
    )


def _detect(tokenizer: Any) -> str:
    added = tokenizer.get_added_vocab()
    fitting = [
        name
        for name, family in FAMILIES.items()
        if family.telling and all(token in added for token in family.needs)
    ]
    if len(fitting) == 1:
        return FAMILIES[fitting[0]].template
    raise DataError(
        "this checkpoint ships no chat template",
        "template.name",
        f"its tokens fit {' and '.join(fitting)}" if fitting else "its tokens fit no family beyond doubt",
        f"set template.name to {_names()}, or to a .jinja file",
    )


def _fitting(tokenizer: Any, name: str) -> str:
    missing = [token for token in FAMILIES[name].needs if tokenizer.get_added_vocab().get(token) is None]
    if missing:
        raise DataError(
            f"the tokenizer doesn't have {', '.join(missing)}",
            f"template.name={name}",
            "the template's marks would be spelled out as plain text",
            "choose the template that the model was trained with",
        )
    return FAMILIES[name].template


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            raise DataError("template file not found", str(path), mend="give the path of a .jinja file")
        if path.stat().st_size > MAX_BYTES:
            raise DataError("template file is too large", str(path), f"more than {MAX_BYTES:,} bytes")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("template file can't be read", str(path), str(error)) from None


def _names() -> str:
    return ", ".join(FAMILIES)
