"""An answer whose beginning the prompt has opened: ``<think>`` at the end of what inference sends.

The templates of reasoning models end the prompt with ``<think>`` and take the reasoning out of every answer
that they are shown. At inference the model goes on inside the block, closes the block, and answers. That text
is made here from the row's own words and from what the template writes for the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sapwood.types import Message

TAG = re.compile(r"(<|\[)([\w|]+)(>|\])")


@dataclass(frozen=True, slots=True)
class Opened:
    """``text``: what follows the prompt, of which ``thought`` characters are the row's reasoning;
    ``answer``: where the part begins that the template wrote, after as many characters as ``skipped``."""

    text: str
    thought: int
    answer: int
    skipped: int


def closing_of(opening: str) -> str | None:
    """What closes the block that a prompt opens at its end; None if it opens none."""
    match = TAG.fullmatch(opening.strip())
    return f"{match[1]}/{match[2]}{match[3]}" if match else None


def continued(message: Message, opening: str, written: str, *, close: bool) -> Opened | None:
    """What the model has to write after a prompt that ends with ``opening``.

    Args:
        written: what the template writes for the answer in the opening's place, its end of turn included.
        close: if the row has no reasoning, close the block at once.

    None if there is no reasoning to put into the block.
    """
    closing = closing_of(opening)
    if closing is None:
        return None
    content = message.text
    skipped = len(written) - len(written.lstrip())
    if message.reasoning is not None:
        thought, gap = message.reasoning.strip("\n"), "\n\n"
    elif closing in content:
        thought, _, answer = content.rpartition(closing)
        thought = thought.lstrip().removeprefix(opening.strip()).strip("\n")
        gap = answer[: len(answer) - len(answer.lstrip())]
    elif close:
        thought, gap = "", "\n\n"
    else:
        return None
    lead = f"{thought}\n{closing}{gap}"
    return Opened(lead + written[skipped:], len(thought), len(lead), skipped)
