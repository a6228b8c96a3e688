"""How many callers are answered at once, and how long a prompt and its answer may be: what memory holds."""

from __future__ import annotations

from sapwood.answers.sizes import Sizes
from sapwood.errors import ConfigError
from sapwood.machine.memory import available_memory
from sapwood.machine.system import cores

CONTEXT = 4096  # if nobody asks for more
A_CORE, FEWEST, MOST = (
    2,
    4,
    8,
)  # answers at once, likewise: each has keys and values that are zeroed at a start
LEAST = 512  # tokens of context, below which fewer are answered at once
SHARE = 0.25  # of the memory that is free, for keys and values


def room_for(sizes: Sizes, context: int | None, slots: int | None) -> tuple[int, int]:
    """(tokens of one prompt and its answer, answers at once).

    Raises ConfigError for a context that the model hasn't.
    """
    longest = sizes.longest
    if context is not None and context > longest:
        what = f"--context {context:,} is longer than the model's context"
        raise ConfigError(what, "--context", f"the model takes {longest:,} tokens", f"--context {longest}")
    fit = int(SHARE * available_memory() / sizes.token_bytes)
    wide = min(context or CONTEXT, longest)
    count = slots or min(max(A_CORE * cores(), FEWEST), MOST)
    while slots is None and count > 1 and count * min(wide, LEAST if context is None else wide) > fit:
        count //= 2
    if context is None:
        wide = max(min(wide, fit // count), min(LEAST, longest))
    return wide, count
