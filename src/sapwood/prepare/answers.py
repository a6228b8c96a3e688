"""The learnt answers of a conversation, and when two answers count as the same."""

from __future__ import annotations

import unicodedata
from hashlib import blake2b

from sapwood.types import Conversation

SIZE = 32  # bytes of a hash
_BLANKS = b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f "  # what str.split takes for white space
_WIDE = [*zip("，！？：；（）", ",!?:;()", strict=True)]  # as NFKC has them


def learnt_answers(conversation: Conversation, train_on: str) -> list[int]:
    """The places of the assistant's turns that are learnt."""
    messages = conversation.messages
    answers = [at for at, message in enumerate(messages) if message.role == "assistant"]
    last = answers[-1:] if train_on == "last" else answers
    return [
        at for at in answers if (messages[at].trained if messages[at].trained is not None else at in last)
    ]


def answers_of(conversation: Conversation, train_on: str) -> list[bytes]:
    """A hash of each answer that is learnt and all that stands before it; of a document, of its text. Case,
    white space and the forms of a character (NFKC) make no difference."""
    total = blake2b(digest_size=SIZE)
    if not conversation.messages:
        total.update(_normal(conversation.text or ""))
        return [total.digest()]
    learnt = {*learnt_answers(conversation, train_on)}
    found: list[bytes] = []
    for at, message in enumerate(conversation.messages):
        calls = repr(message.tool_calls) if message.tool_calls else ""
        total.update(_normal(f"{message.role}\0{message.text}\0{calls}\0"))
        if at in learnt:
            found.append(total.digest())
    return found


def _normal(text: str) -> bytes:
    """The text in the form that is compared. A file has millions of answers, so ASCII has a short way, and
    Chinese with its punctuation has another."""
    if text.isascii():
        return text.lower().encode().translate(None, _BLANKS)
    for wide, plain in _WIDE:
        text = text.replace(wide, plain)
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(folded.split()).encode("utf-8", "surrogatepass")
