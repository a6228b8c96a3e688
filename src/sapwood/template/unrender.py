"""Rendered text back to the conversation that it shows, so that it is trained and proven like any other.

What stands between the messages is asked of the template itself, with messages that nobody writes. The parse
needs no guess: what it finds is rendered again, and the proof compares that with the text of the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sapwood.data.problems import ProblemLog
from sapwood.errors import DataError, Problem
from sapwood.template.content import NONCHARACTERS
from sapwood.template.render import Renderer, TrainOn
from sapwood.types import Conversation, Message, Role, RowId

MARKS = {  # what no other family writes
    "llama-2-chat": "[INST]",
    "chatml": "<|im_start|>",
    "gemma-2": "<start_of_turn>",
    "chatglm3": "<|assistant|>",
    "llama-3": "<|start_header_id|>",
}
SHOWN = 60


def unrender(
    conversations: Iterable[Conversation], renderer: Renderer, train_on: TrainOn
) -> Iterator[Conversation]:
    """The conversations, those of rendered text with their messages. A document stays without any.

    Raises DataError behind the last good one, for each text of another family, each that the template would
    not write, and each document if not all of the text is to be learnt.
    """
    problems = ProblemLog()
    grammar: Grammar | None = None
    for conversation in conversations:
        if conversation.text is None:
            yield conversation
            continue
        grammar = grammar or Grammar.of(renderer)
        try:
            messages = grammar.parse(conversation)
        except DataError as error:
            problems.add(*error.problems)
            continue
        if not messages and train_on != "all":
            what = "[document] the text is no rendered conversation"
            why = "nothing in it says which part the model is to write"
            problems.add(Problem(what, str(conversation.row), why, "template.train_on=all learns all of it"))
            continue
        yield replace(conversation, messages=messages)
    problems.raise_any()


def last_question(renderer: Renderer, texts: Iterable[str]) -> list[str | None]:
    """The last thing that a user says in each rendered text, for a person to read. None if the text can't be
    taken apart: a template may rewrite its turns."""
    try:
        grammar = Grammar.of(renderer)
    except DataError:
        return [None for _ in texts]
    found: list[str | None] = []
    for text in texts:
        try:
            messages = grammar.parse(Conversation(RowId("a prompt", 0), (), text=text))
        except DataError:
            messages = ()
        found.append(next((message.text for message in reversed(messages) if message.role == "user"), None))
    return found


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a template writes before, between and behind messages. ``system``: (before it, behind it), None
    if the template has no system role; ``ends``: what may stand behind the last answer; ``marks``: what
    no message may hold: such a message has swallowed another turn."""

    bos: str
    head: str
    system: tuple[str, str] | None
    middle: str
    between: str
    ends: tuple[str, ...]
    marks: tuple[str, ...]

    @classmethod
    def of(cls, renderer: Renderer) -> Grammar:
        """Raises DataError if the template doesn't show four plain turns one behind the other."""
        turns = _split(renderer, ("user", "assistant", "user", "assistant"))
        if turns is None or turns[1] != turns[3]:
            why = "its template doesn't write the turns of a conversation one behind the other"
            raise DataError("rendered text can't be read for this model", "data.format", why, "give messages")
        try:
            led = _split(renderer, ("system", "user", "assistant"))
        except DataError:
            led = None
        bos = str(renderer.tokenizer.bos_token or "")
        eos = str(renderer.tokenizer.eos_token or "")
        ends = (turns[4].strip(), renderer.stop_text, eos)
        written = "".join([*turns, *(led or ())])
        marks = [*renderer.encoder.control, *MARKS.values(), turns[1].strip()]
        return cls(
            bos,
            turns[0].removeprefix(bos),
            (led[0].removeprefix(bos), led[1]) if led is not None else None,
            turns[1],
            turns[2],
            tuple(dict.fromkeys(end for end in ends if end)),
            tuple(mark for mark in marks if mark in written or mark == eos),
        )

    def parse(self, conversation: Conversation) -> tuple[Message, ...]:
        """The messages; none for a document. Raises DataError."""
        text = (conversation.text or "").strip("\n")
        while self.bos and text.startswith(self.bos):  # one too many is a fault that the proof finds
            text = text.removeprefix(self.bos).lstrip()
        messages = self._with_system(text) or self._turns(text, self.head)
        if messages is not None:
            self._refuse_marks(conversation, messages)
            return messages
        self._refuse_family(conversation, text)
        return ()

    def _with_system(self, text: str) -> tuple[Message, ...] | None:
        if self.system is None or not text.startswith(self.system[0].strip()):
            return None
        head, behind = self.system
        content, found, rest = text[len(head.strip()) :].partition(behind.strip())
        turns = self._turns(behind.strip() + rest, behind) if found else None
        return (Message("system", _inner(content, head, behind)), *turns) if turns is not None else None

    def _turns(self, text: str, head: str) -> tuple[Message, ...] | None:
        """User and assistant in turns behind ``head``; None if the text shows something else."""
        if not text.startswith(head.strip()):
            return None
        rest, before = text[len(head.strip()) :], head
        messages: list[Message] = []
        while True:
            question, found, rest = rest.partition(self.middle.strip())
            if not found:
                return None
            answer, more, rest = rest.partition(self.between.strip())
            behind = self.between
            if not more:
                answer, behind = self._without_end(answer), self.between[: _edge(self.between)]
            found_turns: tuple[tuple[Role, str], ...] = (
                ("user", _inner(question, before, self.middle)),
                ("assistant", _inner(answer, self.middle, behind)),
            )
            messages += [Message(role, content) for role, content in found_turns]
            if not more:
                return tuple(messages)
            before = self.between

    def _without_end(self, answer: str) -> str:
        for end in self.ends:
            if answer.rstrip().endswith(end):
                return answer.rstrip().removesuffix(end)
        return answer

    def _refuse_marks(self, conversation: Conversation, messages: Sequence[Message]) -> None:
        for message in messages:
            for mark in self.marks:
                if mark in message.text:
                    what = f"[template-text] {mark} stands inside what would be the {message.role}'s message"
                    at = message.text.index(mark)
                    why = f"behind {message.text[max(0, at - SHOWN) : at]!r}"
                    mend = "write the turns as the template does, or give the rows as messages"
                    raise DataError(what, str(conversation.row), why, mend)

    def _refuse_family(self, conversation: Conversation, text: str) -> None:
        own = self.head + self.middle + self.between
        for family, mark in MARKS.items():
            if mark not in text:
                continue
            row = str(conversation.row)
            if mark not in own:
                what = f"[wrong-family] the text is rendered for {family}, which this model's template is not"
                why = f"it holds {mark}, and this model's template begins {own[:SHOWN]!r}"
                raise DataError(what, row, why, "take a model of that family, or give the rows as messages")
            what = "[template-text] the text is not as the chat template writes it"
            why = f"it begins {text[:SHOWN]!r}, the template writes {self.head[:SHOWN]!r}"
            raise DataError(what, row, why, "give the rows as messages, and the template writes the rest")


def _split(renderer: Renderer, roles: Sequence[Role]) -> list[str] | None:
    """What the template writes around the contents of these turns; None if a content isn't there once."""
    marks = NONCHARACTERS[: len(roles)]
    rest = renderer.text_of([Message(role, mark) for role, mark in zip(roles, marks, strict=True)])
    pieces: list[str] = []
    for mark in marks:
        if rest.count(mark) != 1:
            return None
        piece, _, rest = rest.partition(mark)
        pieces.append(piece)
    return [*pieces, rest]


def _inner(content: str, before: str, behind: str) -> str:
    """The content without the blanks that the template writes at its edges; without any if they differ."""
    lead, trail = before[len(before.rstrip()) :], behind[: _edge(behind)]
    if len(content) >= len(lead) + len(trail) and content.startswith(lead) and content.endswith(trail):
        return content[len(lead) : len(content) - len(trail)]
    return content.strip()


def _edge(text: str) -> int:
    """How many blanks a text begins with."""
    return len(text) - len(text.lstrip())
