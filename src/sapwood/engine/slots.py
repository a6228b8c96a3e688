"""Which caller is answered next, and in which of llama.cpp's slots. What one adapter computed never serves
another adapter."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from sapwood.engine.wire import Refused

NOBODY = object()  # has computed nothing yet
# What one more group of neighbours costs an answer of 64 tokens, in tokens of a prompt that could be read
# meanwhile. SmolLM2 on two cores (Zen 4): a group costs 8 ms for each token that is written, and a token of a
# prompt is read in 4.
GROUP_COSTS = 128


@dataclass(slots=True)
class Slot:
    """A slot of llama.cpp: the adapter that used it last, and the tokens that it holds. ``clean``: nothing
    that it holds may be used."""

    number: int
    owner: object = NOBODY
    ids: Sequence[int] = ()
    clean: bool = True
    used: int = 0


@dataclass(slots=True)
class Slots:
    """Places, and a queue before them in which the first to come is the first to go.

    Attributes:
        count: places there are; ``most``: callers that may wait; ``patience``: seconds that each may wait.
    """

    count: int
    most: int = 256
    patience: float = 60.0
    _free: list[Slot] = field(default_factory=list[Slot])
    _taken: list[Slot] = field(default_factory=list[Slot])
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque[asyncio.Future[None]])
    _shut: bool = False
    _clock: int = 0

    def __post_init__(self) -> None:
        self.forget()

    @property
    def busy(self) -> int:
        return self.count - len(self._free)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def forget(self) -> None:
        """Make all slots new, after llama.cpp was started anew. No slot may be in use."""
        self._free, self._taken = [Slot(i) for i in range(self.count)], []

    async def take(self, owner: object, ids: Sequence[int], *, patient: bool = False) -> Slot:
        """A place for a prompt of an adapter (None: the base).

        Chosen is the slot that has read the most of the prompt already, or a neighbour of slots in which the
        same adapter writes. llama.cpp computes neighbours together: each group of them reads all weights once
        for each token.

        Raises Refused: 429 if too many wait, 503 if none came free in time; not of who is ``patient``.
        """
        if self._waiting:
            await self._wait(patient)
        while self._shut or not self._free:
            await self._wait(patient)
        slot = self._best(owner, ids)
        self._free.remove(slot)
        self._taken.append(slot)
        slot.clean = slot.owner != owner
        slot.owner, slot.ids = owner, ids
        return slot

    def give(self, slot: Slot) -> None:
        """Give a slot back."""
        self._clock += 1
        slot.used = self._clock
        self._taken.remove(slot)
        self._free.append(slot)
        self._wake()

    async def shut(self) -> None:
        """Let nobody in any more, and wait until everybody is out."""
        self._shut = True
        while self.busy:
            await asyncio.sleep(0.01)

    def open(self) -> None:
        self._shut = False
        self._wake()

    async def _wait(self, patient: bool) -> None:
        if len(self._waiting) >= self.most and not patient:
            raise Refused(
                429, f"{self.most} requests are waiting already; try again in a moment", "queue_full"
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(None if patient else self.patience):
                await turn
        except BaseException as error:
            self._waiting.remove(turn)
            self._wake()  # it may have been woken just before it left
            if isinstance(error, TimeoutError):
                why = f"no place came free within {self.patience:g} s; try again"
                raise Refused(503, why, "queue_timeout") from None
            raise
        self._waiting.remove(turn)

    def _wake(self) -> None:
        """Wake as many callers as there are free slots. Each takes its slot when it goes on."""
        if self._shut:
            return
        called = sum(turn.done() for turn in self._waiting)
        for turn in self._waiting:
            if called >= len(self._free):
                return
            if not turn.done():
                turn.set_result(None)
                called += 1

    def _best(self, owner: object, ids: Sequence[int]) -> Slot:
        near = {slot.number for slot in self._taken if slot.owner == owner}

        def gain(slot: Slot) -> tuple[int, bool, int]:
            read = shared(slot.ids, ids) if slot.owner == owner else 0
            return read - GROUP_COSTS * _groups(near | {slot.number}), slot.owner == owner, slot.used

        own = [slot for slot in self._free if slot.owner in (owner, NOBODY)]
        if own:
            return max(own, key=gain)
        return min(self._free, key=lambda slot: (_groups(near | {slot.number}), slot.used))


def _groups(numbers: Set[int]) -> int:
    """Runs of neighbours: 2 for 0, 1, 5."""
    return sum(number - 1 not in numbers for number in numbers)


def shared(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
