"""The Modelfile: what Ollama has to be told so that it asks as the model was trained."""

from __future__ import annotations

from collections.abc import Sequence

from sapwood.errors import ExportError
from sapwood.export.go_template import Text, go_template, takes
from sapwood.template.render import Renderer
from sapwood.types import Message

FENCE = '"""'


def modelfile(renderer: Renderer, system: str | None, model: str, adapter: str | None) -> str:
    """The text of a Modelfile. ``model``, ``adapter``: files beside it.

    Raises:
        ExportError: no Go template renders as the trained one, or a text can't be quoted.
    """
    template = go_template(_without_bos(renderer), renderer.stop_text)
    lines = [f"FROM ./{model}"]
    if adapter is not None:
        lines.append(f"ADAPTER ./{adapter}")
    lines.append(f"TEMPLATE {_quoted(template)}")
    if system:
        if not takes(renderer.prompt_text, [Message("system", system), Message("user", "Hi")]):
            raise ExportError("the trained template takes no system prompt", "data.system")
        lines.append(f"SYSTEM {_quoted(system)}")
    lines += [f"PARAMETER stop {_quoted(text)}" for text in stop_texts(renderer)]
    return "\n".join(lines) + "\n"


def _without_bos(renderer: Renderer) -> Text:
    """The prompt as Ollama is to write it: without BOS, if the tokenizer writes BOS by itself."""
    tokenizer = renderer.tokenizer
    bos = tokenizer.bos_token or ""
    if not bos or tokenizer("a")["input_ids"][:1] != [tokenizer.bos_token_id]:
        return renderer.prompt_text
    return lambda messages: renderer.prompt_text(messages).removeprefix(bos)


def stop_texts(renderer: Renderer) -> Sequence[str]:
    """The stop tokens as text, the trained one first."""
    ids = [renderer.stop_id, *(id for id in renderer.stop_ids if id != renderer.stop_id)]
    return [text for text in map(renderer.tokenizer.convert_ids_to_tokens, ids) if text]


def _quoted(text: str) -> str:
    if FENCE in text or text.endswith('"'):
        raise ExportError("the text can't be quoted in a Modelfile", "Modelfile", repr(text[:60]))
    return f"{FENCE}{text}{FENCE}"
