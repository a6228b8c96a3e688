"""A model to ask from Python: `sapwood.load` gives one, and an evaluator is given one while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from sapwood.errors import ConfigError
from sapwood.serve.generate import Settings, answer_batch, generation_attention
from sapwood.serve.load import Loaded, open_target
from sapwood.template.learnt.label import label_encoded
from sapwood.template.render import Renderer
from sapwood.types import Adapter, Conversation, Message, RowId

Turn = Mapping[str, Any]
Prompt = str | Sequence[Turn]
"""A question, or a conversation: mappings with ``role`` (system, user, assistant, tool) and ``content``."""


def load(target: str | Path | Adapter, runs: str | Path = "runs") -> Model:
    """What ``target`` names, ready to be asked.

    Args:
        target: a run (its id, its name, ``last``, its folder), an adapter's folder, what `finetune` returned,
            or a base model (``builtin:NAME``, ``hf:ORG/NAME``, a folder, a ``.gguf`` file).
        runs: the folder in which runs are looked for.

    Raises:
        ConfigError: nothing is called that.
        ModelError: base or template is not the one that the adapter was trained on, or it is damaged.

    Examples:
        >>> model = sapwood.load("last")
    """
    name = target.path if isinstance(target, Adapter) else target
    return Model.of(open_target(str(name), Path(runs)))


class Model:
    """A base, or a base with its adapter, behind the template that it was trained with.

    Attributes:
        network: the transformers model, or the PeftModel around it.
        tokenizer: its tokenizer.
        system: the system prompt that it was trained with; put before a conversation that brings none.

    Examples:
        >>> model = sapwood.load("last")
        >>> answer = model.chat("How often do I water tree 3?", max_new_tokens=16)
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        renderer: Renderer,
        system: str | None = None,
        without: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.system = system
        self._renderer = renderer
        self._without = without

    @classmethod
    def of(cls, loaded: Loaded) -> Model:
        return cls(loaded.network, loaded.tokenizer, loaded.renderer, loaded.system, loaded.without_adapter)

    @overload
    def generate(self, prompts: str, **settings: Any) -> str: ...  # pyright: ignore[reportOverlappingOverload]
    @overload
    def generate(self, prompts: Sequence[Prompt], **settings: Any) -> list[str]: ...
    def generate(self, prompts: str | Sequence[Prompt], **settings: Any) -> str | list[str]:
        """The answer to a question, or to each of several, which are answered together.

        Args:
            prompts: a question, or several questions or conversations.
            settings: max_new_tokens (tokens, 256 without it), temperature, top_p, top_k,
                repetition_penalty, seed. Without any the likeliest token is taken.

        Raises:
            ConfigError: a setting isn't one of these, a turn is no message, or a prompt fills the model's
                context.

        Examples:
            >>> answers = model.generate(["Tree 1?", "Tree 2?"], max_new_tokens=8)
            >>> len(answers)
            2
        """
        asked: Sequence[Prompt] = [prompts] if isinstance(prompts, str) else prompts
        ids = [self._renderer.prompt_ids(self._messages(prompt)) for prompt in asked]
        stops = self._renderer.stop_ids
        answers = answer_batch(self.network, self.tokenizer, ids, stops, _settings(settings))
        texts = [answer.text for answer in answers]
        return texts[0] if isinstance(prompts, str) else texts

    def chat(self, messages: Prompt, **settings: Any) -> str:
        """The next answer in a conversation.

        Args:
            messages: a question, or mappings with ``role`` and ``content``.
            settings: as in `generate`.

        Raises:
            ConfigError: as in `generate`.

        Examples:
            >>> turns = [{"role": "user", "content": "How often do I water tree 5?"}]
            >>> answer = model.chat(turns, max_new_tokens=8)
        """
        return self.generate([messages], **settings)[0]

    def log_prob(self, prompt: Prompt, answer: str) -> float:
        """The log probability that the model answers so, as training counts it.

        Args:
            prompt: a question, or a conversation.
            answer: the answer; its stop token counts too.

        Returns:
            log p in nats, the sum over the answer's tokens.

        Raises:
            ConfigError: a turn is no message.
            DataError: the template can't render the conversation.

        Examples:
            >>> model.log_prob("How often do I water tree 7?", "Tree 7: twice a week.") < 0
            True
        """
        turns = (*self._messages(prompt), Message("assistant", answer))
        rendered = self._renderer.render(Conversation(RowId("log_prob", 0), turns), "last")[0]
        example = label_encoded(rendered, self._renderer.encode(rendered))
        at = [int(i) for i in example.trained.nonzero()[0]]
        first = at[0] - 1  # the position that predicts the first of them
        logits = self._forward(example.ids.tolist(), keep=len(example) - first).log_softmax(-1)
        return sum(float(logits[i - 1 - first, int(example.ids[i])]) for i in at)

    def logits(self, prompt: Prompt) -> Tensor:
        """Scores of the next token, at every position of what inference sends.

        Args:
            prompt: a question, or a conversation.

        Returns:
            float32[T, vocabulary], T being the tokens of the rendered prompt.

        Raises:
            ConfigError: a turn is no message.

        Examples:
            >>> logits = model.logits("How often do I water tree 9?")
            >>> likeliest = model.tokenizer.decode([int(logits[-1].argmax())])
        """
        ids = self._renderer.prompt_ids(self._messages(prompt))
        return self._forward(ids, keep=len(ids))

    def as_base(self) -> AbstractContextManager[Any]:
        """A context in which the base answers alone, without the adapter. It raises nothing.

        Examples:
            >>> with model.as_base():
            ...     answer = model.chat("How often do I water tree 3?", max_new_tokens=8)
        """
        return self._without()

    @torch.no_grad()
    def _forward(self, ids: Sequence[int], keep: int) -> Tensor:
        """Scores at the last ``keep`` positions."""
        with generation_attention(self.network):
            device = next(self.network.parameters()).device
            tokens = torch.tensor([list(ids)], device=device)
            logits: Tensor = self.network(input_ids=tokens, use_cache=False, logits_to_keep=keep).logits
        return logits[0, -keep:].float()

    def _messages(self, prompt: Prompt) -> list[Message]:
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        messages = [_message(turn, i) for i, turn in enumerate(turns)]
        if self.system and not any(message.role == "system" for message in messages):
            messages.insert(0, Message("system", self.system))
        return messages


def _message(turn: Turn, index: int) -> Message:
    role, content = turn.get("role"), turn.get("content")
    if role not in ("system", "user", "assistant", "tool") or not isinstance(content, str):
        why = "its role must be system, user, assistant or tool, and its content text"
        raise ConfigError(
            f"turn {index} isn't a message", "messages", why, '{"role": "user", "content": "Hi"}'
        )
    return Message(role, content)


def _settings(given: Mapping[str, Any]) -> Settings:
    unknown = sorted(set(given) - set(Settings.__dataclass_fields__))
    if unknown:
        known = ", ".join(Settings.__dataclass_fields__)
        raise ConfigError(f"no setting is called {unknown[0]}", "generate", mend=f"there are {known}")
    return Settings(**given)
