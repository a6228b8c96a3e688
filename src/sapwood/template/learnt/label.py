"""`Rendered` -> `Example`: which tokens are to be learnt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sapwood.errors import DataError
from sapwood.template.encode import Encoded
from sapwood.types import Conversation, Example, Rendered


def label_encoded(rendered: Rendered, encoded: Encoded, weights: Sequence[float] = ()) -> Example:
    """Mark the tokens of an encoding that lie in a span. ``weights``: what a token of each span counts in the
    loss; none: 1.

    A token that holds the end of the prompt and the beginning of the answer can be neither: at inference the
    prompt ends before it, so the model would never be asked to write it. Raises DataError, code boundary.
    """
    starts, stops = encoded.offsets[:, 0], encoded.offsets[:, 1]
    trained = np.zeros(len(encoded.ids), dtype=np.bool_)
    counts = np.ones(len(encoded.ids), dtype=np.float32) if weights else None
    for number, span in enumerate(rendered.spans):
        straddling = (starts < span.start) & (stops > span.start)
        if straddling.any():
            start, stop = encoded.offsets[straddling.argmax()]
            raise DataError(
                f"[boundary] one token, {rendered.text[start:stop]!r}, joins the prompt to the answer",
                str(rendered.row),
                "in use the prompt ends inside it, so the model would get other tokens than in training",
                "remove the blanks at the beginning of the answer",
            )
        inside = (starts >= span.start) & (starts < span.stop)
        trained |= inside
        if counts is not None:
            counts[inside] = weights[number]
    trained[:1] = False  # nothing stands before the first token to predict it from
    return Example(rendered.row, encoded.ids, trained, counts)


def span_weights(conversation: Conversation, turns: Sequence[int], *, whole: bool) -> tuple[float, ...]:
    """What a token of each span counts: the row's weight times the turn's. Nothing if each counts 1.

    turns: the message of each span. whole: there is one span, over prompts and answers: the row's weight.
    """
    row = conversation.weight
    if whole:
        return () if row is None else (row,)
    own = [conversation.messages[turn].weight for turn in turns]
    if row is None and all(weight is None for weight in own):
        return ()
    return tuple((row or 1.0) * (weight or 1.0) for weight in own)
