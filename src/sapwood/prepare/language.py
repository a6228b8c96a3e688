"""Whether the model can read the language of the data. A tokenizer that never saw a language spells it letter
by letter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from sapwood.base.propose import propose_model
from sapwood.data.script import LATIN, script_of
from sapwood.machine.memory import available_memory
from sapwood.types import Example

SAMPLED = 64  # examples
ENOUGH = 200  # tokens, below which nothing is said


def unread_language(examples: Sequence[Example], tokenizer: Any, model: str) -> str | None:
    """A sentence if the learnt text takes far more tokens than a model that knows its language would need;
    None for all other data."""
    step = max(1, len(examples) // SAMPLED)
    chosen = islice((examples[at] for at in range(0, len(examples), step)), SAMPLED)
    ids = [one.ids[one.trained].tolist() for one in chosen]
    text = "\n".join(tokenizer.batch_decode(ids, skip_special_tokens=True))
    tokens = sum(map(len, ids))
    script = script_of(text)
    letters = len(script.letters.findall(text))
    if tokens < ENOUGH or letters < 0.4 * len(text):
        return None
    rate = len(text) / tokens
    if rate >= script.least:
        return None
    better = propose_model(text, available_memory()).model
    language = "this language" if script.languages == LATIN else script.languages
    advice = f": {better}, for example" if better != model else ""
    return (
        f"{model} can't read {language}: {rate:.2f} characters a token, while a model that knows it has "
        f"{script.least:g} and more. It would learn slowly and answer badly; take another base.model{advice}"
    )
