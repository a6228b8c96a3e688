"""Published formats of a turn, and what was understood of a formatting function."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sapwood.migrate.script.values import Encoded, Filler, Mask, Part


@dataclass(frozen=True, slots=True)
class Shape:
    """A published format of one turn. needs: text that tells it; own: the template is built in here."""

    needs: str
    bos: str
    system: str
    user: str
    between: str
    end: str
    own: bool = False


SHAPES = {
    "gemma-2": Shape("<start_of_turn>", "<bos>", "", "<start_of_turn>user\n",
                     "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>", True),
    "chatml": Shape("<|im_start|>", "", "<|im_start|>system\n{}<|im_end|>\n", "<|im_start|>user\n",
                    "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", True),
    "llama-2-chat": Shape("[INST]", "<s>", "", "[INST] ", " [/INST] ", "</s>", True),
    "llama-3": Shape("<|start_header_id|>", "<|begin_of_text|>",
                     "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
                     "<|start_header_id|>user<|end_header_id|>\n\n",
                     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    "phi-3": Shape("<|end|>", "", "<|system|>\n{}<|end|>\n", "<|user|>\n", "<|end|>\n<|assistant|>\n",
    "<|end|>"),
    "zephyr": Shape("</s>\n<|assistant|>", "", "<|system|>\n{}</s>\n", "<|user|>\n",
    "</s>\n<|assistant|>\n", "</s>"),
    "chatglm3": Shape("<|assistant|>", "[gMASK]sop", "<|system|>\n {}", "<|user|>\n ", "<|assistant|>\n ",
    "", True),
}  # fmt: skip


@dataclass(slots=True)
class Learning:
    """What is made of a row.

    columns: sapwood's key -> theirs. system: a literal prompt. family: a name of `SHAPES`; own: the
    tokenizer's template is used. end: what follows the answer, in parts; learnt: "assistant",
    "all" or "" (unknown).
    differs: (expected, found) if a family's template is written otherwise. resists: (line, why) of what
    couldn't be followed. jinja: a template to write if no family fits.
    """

    line: int
    name: str
    model: str = ""
    columns: dict[str, str] = field(default_factory=dict[str, str])
    form: str = ""
    system: str | None = None
    system_line: int = 0
    family: str = ""
    own: bool = False
    end: tuple[Part, ...] = ()
    end_line: int = 0
    learnt: str = ""
    answer_line: int = 0
    prompt_line: int = 0
    glued: bool = False
    differs: tuple[str, str] | None = None
    cuts: list[tuple[Any, int]] = field(default_factory=list[tuple[Any, int]])
    limits: list[Encoded] = field(default_factory=list[Encoded])
    masks: list[Mask] = field(default_factory=list[Mask])
    fillers: list[Filler] = field(default_factory=list[Filler])
    sentinel: int = 0
    own_bos: bool = False
    begins: str = ""
    jinja: str = ""
    resists: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    is_ids: bool = False
    has_mask: bool = True
    prompt_masked: bool = False
