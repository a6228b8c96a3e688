"""`Rendered` -> `Example`: which tokens are to be learnt."""

from __future__ import annotations

import numpy as np

from sapwood.errors import DataError
from sapwood.template.encode import Encoded
from sapwood.types import Example, Rendered


def label_encoded(rendered: Rendered, encoded: Encoded) -> Example:
    """Mark the tokens of an encoding that lie in a span.

    A token that holds the end of the prompt and the beginning of the answer can be neither: at inference the
    prompt ends before it, so the model would never be asked to write it. Raises DataError, code boundary.
    """
    starts, stops = encoded.offsets[:, 0], encoded.offsets[:, 1]
    trained = np.zeros(len(encoded.ids), dtype=np.bool_)
    for span in rendered.spans:
        straddling = (starts < span.start) & (stops > span.start)
        if straddling.any():
            start, stop = encoded.offsets[straddling.argmax()]
            raise DataError(
                f"[boundary] one token, {rendered.text[start:stop]!r}, joins the prompt to the answer",
                str(rendered.row),
                "at inference the prompt ends inside it: the model would see other tokens than in training",
                "remove the blanks at the beginning of the answer",
            )
        trained |= (starts >= span.start) & (starts < span.stop)
    trained[:1] = False  # nothing stands before the first token to predict it from
    return Example(rendered.row, encoded.ids, trained)
