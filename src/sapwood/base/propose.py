"""A base model for somebody who has named none: by the language of the data and the memory at hand."""

from __future__ import annotations

from dataclasses import dataclass

from sapwood.data.script import LATIN, is_english, script_of

GB = 10**9


@dataclass(frozen=True, slots=True)
class Proposal:
    """A model, and why it is that one."""

    model: str
    why: str


# The largest that fits is taken: (RAM that training it takes, in bytes, with some to spare; its name).
MULTILINGUAL = ((12 * GB, "hf:Qwen/Qwen2.5-1.5B-Instruct"), (4 * GB, "hf:Qwen/Qwen2.5-0.5B-Instruct"))
SMALL = "builtin:gemma3-270m"


def propose_model(text: str, memory: int, *, hub: bool = True) -> Proposal:
    """text: a sample of the data. memory: bytes that can be had. hub: can a model be fetched?"""
    if is_english(text):
        return Proposal("builtin:smollm2", "English, small, needs no hub")
    script = script_of(text)
    language = "many languages" if script.languages == LATIN else script.languages.partition(",")[0]
    for needed, model in MULTILINGUAL:
        if memory >= needed and hub:
            return Proposal(model, f"knows {language}; fits in memory. Without a hub: {SMALL}")
    return Proposal(SMALL, f"knows {language}, small, needs no hub; it is not tuned for chat")
