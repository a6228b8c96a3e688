"""The learnt part of a text, found by proof: the prompt that inference would send is the beginning of the
text, and the answer ends with the token on which generation stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sapwood.errors import DataError
from sapwood.template.learnt.stops import Stops
from sapwood.template.said.opened import closing_of, continued
from sapwood.template.view import View
from sapwood.types import Conversation, Message, Rendered, Span


@dataclass(frozen=True, slots=True)
class Rendering:
    """A `Rendered`, and what the proof needs to check it.

    Attributes:
        rendered: the text and its spans.
        upto: how many messages of the conversation are in it.
        turns: for each span, the index of its message.
        appended: characters at the text's end that the template didn't write: the missing stop token.
        whole: the one span is the text from its beginning, prompts included.
        opened: what the prompt opens for the answer (``<think>``) and the template's own text doesn't have.
    """

    rendered: Rendered
    upto: int
    turns: tuple[int, ...]
    appended: int = 0
    whole: bool = False
    opened: str = ""


@dataclass(frozen=True, slots=True)
class Spans:
    """Finds the learnt spans. close_thinking: close a block that the prompt opens, if the row has no
    reasoning."""

    _stops: Stops
    _close_thinking: bool

    def whole(self, view: View, trained: Sequence[int]) -> Rendering | None:
        """All trained turns in one text, or None if inference would see another one for some turn."""
        upto = trained[-1] + 1
        full, marks = view.marked_text(upto)
        content = view.content(full, upto)
        spans: list[Span] = []
        for turn in trained:
            prompt = view.text(turn, prompt=True)
            if not full.startswith(prompt):
                return None
            marked = marks.get(turn)
            if marked is not None and marked[0] == len(prompt):
                # A mark may end before the stop token that the template goes on to write.
                beside = self._stops.beside(full, marked[1])
                end = beside if beside is not None else marked[1]
            else:
                end = shared_length(full, view.text(turn + 1))
            stop = self._stops.after(full, content, len(prompt), end)
            if stop is None:
                return None
            spans.append(Span(len(prompt), stop))
        return Rendering(Rendered(view.row, full, tuple(spans), content or ()), upto, tuple(trained))

    def _opened(self, view: View, message: Message, turn: int, at: int) -> Rendering:
        """A turn whose prompt opens a block that the template leaves out. ``at``: where prompt and text
        part."""
        prompt, text = view.text(turn, prompt=True), view.text(turn + 1)
        opening, written = prompt[at:], text[at:]
        found = continued(message, opening, written, close=self._close_thinking)
        if found is None:
            raise DataError(
                f"[open-think] the prompt opens {opening.strip()}, and the answer of turn {turn + 1} "
                "has no reasoning",
                str(view.row),
                "the model would learn to answer inside the block, and never to close it",
                "give the reasoning (reasoning_content, or <think>…</think> in the content), or set "
                "template.no_reasoning=close, which learns an empty block",
            )
        start = len(prompt)
        shift = start + found.answer - found.skipped - at
        before = view.content(prompt, turn, prompt=True) or ()
        behind = [span for span in view.content(text, turn + 1) or () if span.start >= at]
        content = [*before, *(Span(span.start + shift, span.stop + shift) for span in behind)]
        if found.thought:
            content.insert(len(before), Span(start, start + found.thought))
        whole = prompt + found.text
        answered = max([start + found.answer, *(span.stop for span in content)])
        found_stop = self._stops.behind(whole, answered)
        appended = "" if found_stop is not None else self._stops.text
        stop = found_stop if found_stop is not None else len(whole) + len(appended)
        rendered = Rendered(view.row, whole + appended, (Span(start, stop),), tuple(content))
        return Rendering(rendered, turn + 1, (turn,), len(appended), opened=opening)

    def one_turn(self, view: View, turn: int, message: Message) -> Rendering:
        """One trained turn after its prompt; the stop token is appended if the template writes none."""
        prompt, text = view.text(turn, prompt=True), view.text(turn + 1)
        if not text.startswith(prompt):
            at = shared_length(prompt, text)
            at -= prompt[:at].endswith(("<", "["))  # two control tokens may begin with the same character
            if closing_of(prompt[at:]) is not None:
                return self._opened(view, message, turn, at)
            raise DataError(
                f"[prompt-text] the answer of turn {turn + 1} doesn't continue its prompt",
                str(view.row),
                f"in use the model would get …{prompt[max(0, at - 20) :]!r:.80}, "
                f"in training …{text[max(0, at - 20) :]!r:.80}",
                "the chat template contradicts itself here: choose another with template.name",
            )
        content = view.content(text, turn + 1)
        stop = self._stops.after(text, content, len(prompt), len(text))
        appended = 0
        if stop is None:
            done = max([len(prompt), *(span.stop for span in content or ())]) if content is not None else 0
            # What the template writes between this answer and the next turn isn't the answer's.
            ends = not text[done:].strip() or content is None or message.tool_calls
            body = text if ends else text[:done]
            text, appended = body + self._stops.text, len(self._stops.text)
            stop = len(text)
        rendered = Rendered(view.row, text, (Span(len(prompt), stop),), content or ())
        return Rendering(rendered, turn + 1, (turn,), appended)


def document(conversation: Conversation, bos: str, eos: str | None) -> Rendering:
    """Text that no template made, between the tokens that begin and end a text for this tokenizer."""
    text = conversation.text or ""
    if eos is None:
        raise DataError(
            "a row of plain text can't be ended",
            str(conversation.row),
            "the tokenizer has no eos token, so the model would never learn to stop",
            "add eos_token to the tokenizer's config",
        )
    whole = bos + text + eos
    content = (Span(len(bos), len(bos) + len(text)),)
    rendered = Rendered(conversation.row, whole, (Span(0, len(whole)),), content)
    return Rendering(rendered, 0, (), whole=True)


def all_of(rendering: Rendering) -> Rendering:
    """The same text, learnt from its beginning to the end of its last span."""
    rendered = rendering.rendered
    return replace(
        rendering, rendered=replace(rendered, spans=(Span(0, rendered.spans[-1].stop),)), whole=True
    )


def shared_length(left: str, right: str) -> int:
    """Length of the common beginning."""
    if left.startswith(right):
        return len(right)
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left.startswith(right[:middle]):
            low = middle
        else:
            high = middle - 1
    return low
