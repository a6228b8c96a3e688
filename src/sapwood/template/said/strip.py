"""Messages that hold what a template writes: marks of turns, and stop tokens behind an answer.

Often data were rendered once already, or their author wrote the stop token behind each answer. If such text
is a message's content, the model learns to spell it in plain tokens before it stops. This module finds such
text. If the config asks for it, the text becomes the turns that it shows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from sapwood.types import Conversation, Message, Role

ENDS = (  # what the families' templates write behind an answer
    "<|im_end|>", "</s>", "<eos>", "<end_of_turn>", "<turn|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<eoa>",
    "<eom>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<|return|>",
    "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>",
)  # fmt: skip
EXCERPT = 60  # characters
BEGINNINGS = ("<s>", "<bos>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>", "[gMASK]", "<sop>")
HINTS = ("<|", "<start_of_turn>", "[INST]", "<｜")  # a rendered conversation holds one of them
ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "[inst]": "user", "User": "user",
    "assistant": "assistant", "model": "assistant", "[/inst]": "assistant", "Assistant": "assistant",
    "tool": "tool", "ipython": "tool", "observation": "tool",
}  # fmt: skip
OPENER = re.compile(
    r"<\|im_start\|>(?P<chatml>system|developer|user|assistant|tool)[ \t]*\n?"
    r"|<\|start_header_id\|>(?P<llama>system|user|assistant|ipython|tool)<\|end_header_id\|>\s*"
    r"|<start_of_turn>(?P<gemma>system|developer|user|model)[ \t]*\n?"
    r"|<\|(?P<plain>system|user|assistant|observation)\|>[ \t]*(?=\n|[^\s])\n?"
    r"|<｜(?P<deepseek>User|Assistant)｜>"
    r"|(?P<inst>\[/?INST\])"
)
SYSTEM = re.compile(r"\s*<<SYS>>\s*(.*?)\s*<</SYS>>\s*", re.DOTALL)


def shows_turns(text: str) -> str | None:
    """The first mark of a rendered conversation in a message; None if it shows none.

    A pair of ``[INST]`` and ``[/INST]``, or one at the very beginning; other families' marks with a role.
    """
    if not any(hint in text for hint in HINTS):
        return None
    for match in OPENER.finditer(text):
        if not match["inst"] or _is_first(text, match) or ("[INST]" in text and "[/INST]" in text):
            return match[0].strip()
    return None


def ending(text: str, ends: Sequence[str] = ENDS) -> str | None:
    """The stop token that a text ends with, if one is spelled there."""
    text = text.rstrip()
    return next((end for end in ends if text.endswith(end)), None) if text.endswith(tuple(ends)) else None


def beginning(text: str) -> str | None:
    """The control token that a text begins with, if one is spelled there."""
    return next((mark for mark in BEGINNINGS if text.lstrip().startswith(mark)), None)


def spelled_out(
    messages: Sequence[Message], ends: Sequence[str], control: Collection[str]
) -> Iterator[tuple[str, str, str]]:
    """(what is at fault, the mark, an excerpt) for each message that shows turns, and for each answer with a
    stop token at its end. ``control``: the model's own tokens; one that begins a text may not begin an
    answer."""
    for message in messages:
        content = message.text
        if (mark := shows_turns(content)) is not None:
            yield f"{mark} in a message", "", content
        elif message.role != "assistant":
            continue
        elif (mark := ending(content, ends)) is not None:
            yield f"answers that end with {mark}", mark, content[-EXCERPT:]
        elif (mark := beginning(content)) in control:
            yield f"answers that begin with {mark}", "", content[:EXCERPT]


def strip_control_text(conversations: Iterable[Conversation], ends: Sequence[str]) -> Iterator[Conversation]:
    """``ends``: stop tokens of the model beside the known ones.

    The conversations, with the turns that messages show as turns, and no stop token behind a message."""
    every = (*ends, *ENDS)
    for conversation in conversations:
        messages = tuple(_turns(conversation.messages, every))
        yield replace(conversation, messages=messages) if messages != conversation.messages else conversation


def _turns(messages: Sequence[Message], ends: Sequence[str]) -> Iterator[Message]:
    for at, message in enumerate(messages):
        if message.content is None or not _holds_marks(message.content, ends):
            yield message
            continue
        shown = [*_shown(message.content, message.role, ends)]
        last = at + 1 == len(messages)
        for i, (role, text) in enumerate(shown):
            if i + 1 == len(shown) and not text and not last:
                continue  # the prompt's end: the next message is what follows it
            if role == message.role:
                yield replace(message, content=text)
            else:
                yield Message(role, text)


def _holds_marks(text: str, ends: Sequence[str]) -> bool:
    marked = shows_turns(text) or ending(text, ends) or beginning(text)
    return marked is not None


def _shown(text: str, role: Role, ends: Sequence[str]) -> Iterator[tuple[Role, str]]:
    """The turns that a message shows; what stands before the first mark is of the message's own role."""
    at = 0
    if shows_turns(text) is not None:
        for match in OPENER.finditer(text):
            yield from _turn(text[at : match.start()], role, ends, is_empty_kept=False)
            role = ROLES[_role_of(match)]
            at = match.end()
    yield from _turn(text[at:], role, ends, is_empty_kept=True)


def _turn(text: str, role: Role, ends: Sequence[str], *, is_empty_kept: bool) -> Iterator[tuple[Role, str]]:
    bare = _bare(text, ends)
    if role == "user" and (found := SYSTEM.match(bare)):
        yield "system", found[1]
        bare = bare[found.end() :].strip()
    if bare or is_empty_kept:
        yield role, bare


def _bare(text: str, ends: Sequence[str]) -> str:
    """The text without the marks that begin and end a text or a turn."""
    marks = (*ends, *BEGINNINGS)
    text = text.strip()
    while text.endswith(marks) or text.startswith(marks):
        for mark in marks:
            text = text.removesuffix(mark).removeprefix(mark).strip()
    return text


def _role_of(match: re.Match[str]) -> str:
    found = match[match.lastgroup or 0]
    return found.lower() if match.lastgroup == "inst" else found


def _is_first(text: str, match: re.Match[str]) -> bool:
    return not text[: match.start()].strip().removeprefix("<s>").strip()
