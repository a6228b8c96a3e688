"""What the tokenizer itself gives for an example: the truth that `template.prove` holds examples against.

Nothing here shares a rendering, an encoding, a cache or a span with the code that makes examples.
transformers' public calls are asked anew for the text of each row and of each prompt, and for the ids of each
text. `template.beginnings` says when a text's ids also give the prompt's ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sapwood.template.beginnings import Beginnings
from sapwood.template.render import Renderer, Rendering
from sapwood.template.view import as_dicts, plain
from sapwood.types import Conversation


@dataclass(frozen=True, slots=True)
class Truth:
    """What the tokenizer itself gives for one example.

    Attributes:
        text: what its chat template writes for the messages.
        ids: its own encoding of the text that was rendered; equal texts have the template's ids.
        prompts: for each trained turn the ids that inference sends before it.
    """

    text: str
    ids: list[int]
    prompts: list[list[int]]


class Truths:
    """Asks the tokenizer of a renderer, and its chat template."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._tokenizer = renderer.tokenizer
        self._beginnings = Beginnings(renderer.tokenizer, renderer.encoder, self._ids)

    def about(self, items: Sequence[tuple[Conversation, Rendering]]) -> list[Truth]:
        """The truth about each example, in one call for all."""
        if not items:
            return []
        texts = [one.rendered.text for _, one in items]
        own = self._ids(texts)
        truths = [Truth(text, ids, []) for text, ids in zip(texts, own, strict=True)]
        for tools, members in _by_tools(items):
            chats = {i: as_dicts(self._renderer.fitted(items[i][0]).messages) for i in members}
            asked = [(i, turn) for i in members for turn in items[i][1].turns]
            with self._renderer.frozen_truth(tools) as template:
                known: dict[str, Any] = {"tools": tools or None, "chat_template": template}
                whole = [chats[i][: items[i][1].upto] for i in members]
                for i, text in zip(members, self._apply(whole, **known), strict=True):
                    truths[i] = Truth(text, own[i], [])
                before = [chats[i][:turn] for i, turn in asked]
                prompts = self._apply(before, add_generation_prompt=True, **known)
                whole, known_ids = [texts[i] for i, _ in asked], [own[i] for i, _ in asked]
                for (i, _), ids in zip(asked, self._beginnings.ids(prompts, whole, known_ids), strict=True):
                    truths[i].prompts.append(ids)
        return truths

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]

    def _apply(self, chats: list[Any], *, add_generation_prompt: bool = False, **options: Any) -> list[str]:
        if any(message["content"] is None for chat in chats for message in chat):
            template, tools = options["chat_template"], options["tools"]
            return self._renderer.with_nulls(chats, template, tools, prompt=add_generation_prompt)
        told: Any = self._tokenizer.apply_chat_template(
            chats, tokenize=False, add_generation_prompt=add_generation_prompt, **options
        )
        return told


def _by_tools(items: Sequence[tuple[Conversation, Rendering]]) -> list[tuple[Any, list[int]]]:
    """Indices of the items that share their tools: a batch has one list of them."""
    groups: list[tuple[Any, list[int]]] = []
    for i, (conversation, _) in enumerate(items):
        if not conversation.messages:
            continue
        tools = plain(conversation.tools)
        for known, members in groups:
            if known == tools:
                members.append(i)
                break
        else:
            groups.append((tools, [i]))
    return groups
