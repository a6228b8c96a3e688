"""`Conversation` -> text, and which part of it the model must learn to write.

The tokenizer's own chat template is the truth. The learnt part is found by proof, never by a search for
words: the prompt that inference would send must be the beginning of the text with the answer, and the answer
ends with the token on which generation stops.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import Any

from sapwood.errors import DataError
from sapwood.template.content import NONCHARACTERS
from sapwood.template.encode import Encoded, Encoder
from sapwood.template.environment import environment
from sapwood.template.jinja import ChatTemplate
from sapwood.template.learnt.spans import Rendering, Spans, all_of, document
from sapwood.template.learnt.stops import PROBE, Stops
from sapwood.template.learnt.turns import TrainOn, trained_turns
from sapwood.template.said.fit import Form, fitted
from sapwood.template.view import Skeletons, View
from sapwood.types import Conversation, Message, Rendered, RowId, Span

VERSION = 1  # part of the fingerprint: raise it when the same row would give other tokens


class Renderer:
    """Conversations as the model sees them, for training, sampling, chat and serving alike.

    Args:
        tokenizer: a transformers fast tokenizer.
        template: Jinja text; None takes the tokenizer's own.
        stop_ids: ids on which generation stops (the generation config's); the tokenizer's eos and the token
            that the template writes after an answer are added.
        clock: what the template is told when it asks for the date; default: now.
        meant: control tokens that an answer of the data may spell and then means.
        close_thinking: close a block that the prompt opens, if the row has no reasoning.
        words: tokens that were added to be learnt as text; anybody's text may hold them.

    Attributes:
        stop_ids: every id on which generation is to stop, sorted.
        stop_id, stop_text: the one that ends a turn in this template.
        template: the Jinja text in use; if the tokenizer has several, the one for chats without tools.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None = None,
        stop_ids: Sequence[int] = (),
        clock: datetime | None = None,
        meant: Sequence[str] = (),
        close_thinking: bool = False,
        words: Sequence[str] = (),
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise DataError(
                "the tokenizer isn't a fast one",
                "base.model",
                "only a fast tokenizer says which characters each token covers",
                "add the model's tokenizer.json to its folder",
            )
        self.tokenizer = tokenizer
        self.clock = clock or datetime.now().astimezone()
        self.meant = tuple(meant)
        self._words = tuple(words)
        self._close_thinking = close_thinking
        self._given = template
        self.template = self.template_for(())
        self._special: dict[str, str] = dict(tokenizer.special_tokens_map)
        self._compiled: dict[str, ChatTemplate] = {}
        self._skeletons: dict[str, Skeletons] = {}
        self._forms: dict[tuple[str, bool], Form] = {}
        self._chat(self.template)  # a template that doesn't parse fails here, not at the first row
        stops = Stops.of(self._view(PROBE), self.encoder, tokenizer, stop_ids)
        self.stop_id, self.stop_ids, self.stop_text = stops.id, stops.ids, stops.text
        self._spans = Spans(stops, close_thinking)

    def __reduce__(self) -> Any:
        """Pickle the arguments of a renderer: another process makes the renderer anew."""
        means = self.meant, self._close_thinking, self._words
        return Renderer, (self.tokenizer, self._given, self.stop_ids, self.clock, *means)

    def render(self, conversation: Conversation, train_on: TrainOn = "assistant") -> list[Rendered]:
        """The conversation as text, with spans over what is to be learnt.

        One `Rendered`, or one for each trained turn if the template rewrites earlier turns (each is then
        rendered as inference would see it). Messages after the last trained turn are left out. Raises
        DataError naming the row.
        """
        return [rendering.rendered for rendering in self.renderings(conversation, train_on)]

    def renderings(
        self, conversation: Conversation, train_on: TrainOn = "assistant", *, quick: bool = False
    ) -> list[Rendering]:
        """`render`, with the facts that the proof needs. ``quick``: texts may be guessed, see `View`."""
        if conversation.text is not None and not conversation.messages:
            return [document(conversation, self._bos, self.tokenizer.eos_token)]
        trained = trained_turns(conversation, train_on)
        conversation = self.fitted(conversation)
        view, messages = self._view(conversation, quick=quick), conversation.messages
        whole = self._spans.whole(view, trained)
        if train_on == "all":
            return [all_of(whole or self._spans.one_turn(view, trained[-1], messages[trained[-1]]))]
        if whole is not None:
            return [whole]
        return [self._spans.one_turn(view, turn, messages[turn]) for turn in trained]

    def text_of(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The template's text of a whole conversation. Raises DataError."""
        said = Conversation(RowId("the conversation", 0), tuple(messages), tuple(tools))
        return self._view(self.fitted(said)).text(len(messages))

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """What inference sends to get the next answer, as text. Raises DataError."""
        asked = Conversation(RowId("the conversation", 0), tuple(messages), tuple(tools))
        return self._view(self.fitted(asked)).text(len(messages), prompt=True)

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """What inference sends to get the next answer. Raises DataError."""
        asked = Conversation(RowId("the conversation", 0), tuple(messages), tuple(tools))
        view = self._view(self.fitted(asked))
        text = view.text(len(messages), prompt=True)
        encoded = self._encode(view.row, [(text, view.content(text, len(messages), prompt=True) or ())])
        return encoded[0].ids.tolist()

    def encode(self, rendered: Rendered) -> Encoded:
        """Token ids of a rendered conversation, and the characters of each. Raises DataError."""
        return self.encode_many([rendered])[0]

    def encode_many(self, rendered: Sequence[Rendered], *, quick: bool = False) -> list[Encoded]:
        """`encode` in one call, on all cores. ``quick``: see `Encoder.encode_batch`."""
        try:
            return self.encoder.encode_batch([(one.text, one.content) for one in rendered], quick=quick)
        except ValueError:  # rare: find the row by encoding one by one
            return [self._encode(one.row, [(one.text, one.content)])[0] for one in rendered]

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, made when it is first asked for: a large vocabulary takes a moment."""
        return Encoder(self.tokenizer, self._words)

    @property
    def _chosen(self) -> Any:
        return self._given if self._given is not None else self.tokenizer.chat_template

    @cached_property
    def default_system(self) -> str | None:
        """The system prompt that the template adds to a conversation without one; None if the template adds
        none."""
        turns = (Message("user", NONCHARACTERS[0]), Message("assistant", NONCHARACTERS[1]))
        given = self._tried((Message("system", NONCHARACTERS[2]), *turns), ())
        alone = self._tried(turns, ())
        if given is None or alone is None or NONCHARACTERS[2] not in given:
            return None
        head, _, rest = given.partition(NONCHARACTERS[2])
        tail = rest.partition(NONCHARACTERS[0])[0]
        added = alone.partition(NONCHARACTERS[0])[0]
        if not added.startswith(head) or not added.endswith(tail):
            return None
        return added[len(head) : len(added) - len(tail)].strip() or None

    @cached_property
    def end_texts(self) -> tuple[str, ...]:
        """Control tokens that no answer may end with: special ones, and those that the template writes."""
        control = self.encoder.control
        return tuple(text for text in control if text in self.encoder.special or text in self.template)

    @property
    def tells_time(self) -> bool:
        """Does the template write the date? Then `clock` is part of what the model learns."""
        return "strftime_now" in str(self._chosen)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over all that decides which ids a conversation becomes."""
        clock = self.clock.isoformat() if self.tells_time else None
        facts = [
            VERSION,
            self._chosen,
            self._special,
            self.encoder.digest,
            self.stop_ids,
            self.stop_text,
            clock,
            *([self.meant] if self.meant else []),
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def template_for(self, tools: Sequence[Any]) -> str:
        """The Jinja text for a chat with these tools: some checkpoints have one of their own for them."""
        try:
            return self.tokenizer.get_chat_template(self._given, list(tools) or None)
        except ValueError as error:
            raise DataError(
                "this checkpoint ships no chat template",
                "template.name",
                str(error).split(". ")[0],
                "name a built-in template or a .jinja file",
            ) from None

    @contextmanager
    def frozen_truth(self, tools: Sequence[Any] = ()) -> Generator[str]:
        """While open, ``tokenizer.apply_chat_template`` has this renderer's clock too. Gives the template."""
        from transformers.utils import chat_template_utils

        template = self.template_for(tools)
        compiled = chat_template_utils._compile_jinja_template(template)  # pyright: ignore[reportPrivateUsage]
        shared: dict[str, Any] = compiled.environment.globals
        before = shared["strftime_now"]
        shared["strftime_now"] = self.clock.strftime
        try:
            yield template
        finally:
            shared["strftime_now"] = before

    def with_nulls(self, chats: list[Any], template: str, tools: Any, *, prompt: bool) -> list[str]:
        """What ``apply_chat_template`` writes. Messages without content have null here: servers keep a null,
        and ``apply_chat_template`` would take it away."""
        from transformers.utils.chat_template_utils import render_jinja_template

        found: Any = render_jinja_template(
            conversations=chats,
            tools=tools,
            chat_template=template,
            add_generation_prompt=prompt,
            **self.tokenizer.special_tokens_map,
        )
        return found[0]

    @cached_property
    def _bos(self) -> str:
        """What the tokenizer itself puts before a text."""
        first = self.tokenizer("a")["input_ids"][:1]
        return str(self.tokenizer.bos_token) if first == [self.tokenizer.bos_token_id] else ""

    # --- parts ----------------------------------------------------------------------------------------------

    def fitted(self, conversation: Conversation) -> Conversation:
        """The conversation with its calls in the form that the template takes."""
        return fitted(conversation, lambda: self._form(conversation.tools))

    def _form(self, tools: Sequence[Mapping[str, Any]]) -> Form:
        key = (self.template_for(tools), bool(tools))
        if key not in self._forms:
            self._forms[key] = Form.of(lambda messages: self._tried(messages, tools))
        return self._forms[key]

    def _tried(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str | None:
        """The template's text; None if the template refuses."""
        view = self._view(Conversation(RowId("a test conversation", 0), tuple(messages), tuple(tools)))
        try:
            return view.text(len(messages))
        except DataError:
            return None

    def _view(self, conversation: Conversation, *, quick: bool = False) -> View:
        template = self.template_for(conversation.tools)
        skeletons = self._skeletons.setdefault(template, {})
        chat = self._chat(template)
        return View(conversation, chat, self.encoder, self._special, skeletons, self.meant, quick)

    def _chat(self, template: str) -> ChatTemplate:
        if template not in self._compiled:
            self._compiled[template] = ChatTemplate(environment(), template, self.clock)
        return self._compiled[template]

    def _encode(self, row: RowId, items: Sequence[tuple[str, Sequence[Span]]]) -> list[Encoded]:
        try:
            return self.encoder.encode_batch(items)
        except ValueError as error:
            raise DataError(f"[control] {error}", str(row), mend="remove that text from the row") from None
