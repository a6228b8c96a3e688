"""What llama.cpp can't load, answered by torch: the same questions, one after another, slower."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from pathlib import Path
from typing import Any

from sapwood.engine.slots import Slots
from sapwood.engine.wire import Ask, End, Piece, Refused, TokenProb
from sapwood.errors import ConfigError, NumericsError
from sapwood.serve.generate import Settings, context_length, written
from sapwood.serve.load import Loaded

LONGEST = 1 << 15  # tokens, of a model whose config names no limit
LACKS = ("min_p", "frequency_penalty", "presence_penalty", "logit_bias", "grammar")


class Torch:
    """One adapter on its base, or a base, in this process. Attributes as `engine.llama.Llama`."""

    kind = "torch"
    restarts = 0
    ready = True

    def __init__(self, loaded: Loaded, most_waiting: int = 256, patience: float = 60.0) -> None:
        self.slots = Slots(1, most_waiting, patience)
        self.context = context_length(loaded.network) or LONGEST
        self._loaded = loaded

    async def stop(self) -> None:
        """Nothing runs beside this process."""

    async def stream(self, adapter: Path | None, ask: Ask) -> AsyncGenerator[Piece]:
        """As `Llama.stream`. ``adapter`` is the one that was loaded: there is no other here."""
        if len(ask.ids) >= self.context:
            why = f"the prompt has {len(ask.ids):,} tokens; the model holds {self.context:,}, answer included"
            raise Refused(400, why, "context_length_exceeded")
        if odd := [name for name in LACKS if getattr(ask, name) != getattr(Ask((), 0), name)]:
            why = f"torch serves this model, because llama.cpp can't load it, and has no {odd[0]}"
            raise Refused(400, why, "unsupported_parameter")
        slot = await self.slots.take(adapter, ask.ids)
        left = threading.Event()
        pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(piece: Piece | Exception) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        work = asyncio.ensure_future(asyncio.to_thread(self._write, ask, put, left))
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.end is not None:
                    return
        finally:
            left.set()
            await asyncio.shield(work)  # one at a time: the model is free when the thread has left it
            self.slots.give(slot)

    async def score(self, adapter: Path | None, ids: Sequence[int], top: int) -> list[TokenProb | None]:
        """As `Llama.score`, in one pass."""
        if len(ids) >= self.context:
            raise Refused(400, f"the prompt has {len(ids):,} tokens", "context_length_exceeded")
        slot = await self.slots.take(adapter, ids)
        try:
            return await asyncio.to_thread(self._scored, ids, top)
        finally:
            self.slots.give(slot)

    def _scored(self, ids: Sequence[int], top: int) -> list[TokenProb | None]:
        from sapwood.export.traces import log_probs

        rows = log_probs(self._loaded.network, ids, 1)
        found: list[TokenProb | None] = [None]
        for id, row in zip(ids[1:], rows, strict=False):
            best = row.topk(top) if top else None
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best is not None else ()
            found.append(self._prob(id, float(row[id]), tuple(pairs)))
        return found

    def _write(self, ask: Ask, put: Any, left: threading.Event) -> None:
        try:
            for piece in self._pieces(ask):
                if left.is_set():
                    return
                put(piece)
        except ConfigError as error:
            put(Refused(400, str(error)))
        except NumericsError as error:
            put(Refused(503, str(error), "not_a_number"))
        except Exception as error:
            put(error)

    def _pieces(self, ask: Ask) -> Generator[Piece]:
        seed = ask.seed if ask.seed is not None else secrets.randbits(32)
        settings = Settings(
            ask.max_tokens, ask.temperature, ask.top_p, ask.top_k, ask.repetition_penalty, seed % 2**64
        )
        held = ""
        network, tokenizer = self._loaded.network, self._loaded.tokenizer
        answer = written(network, tokenizer, ask.ids, ask.stop_ids, settings, ask.top or 0)
        for count, token in enumerate(answer, 1):
            text = held + token.piece
            cut, word = _cut(text, ask.stop)
            held = "" if token.last or word else text[len(text) - _pending(text, ask.stop) :]
            shown = text[:cut] if word else text[: len(text) - len(held)]
            ids = (token.id,) if token.id is not None else ()
            told = ask.top is not None and token.id is not None
            probs = (self._prob(token.id or 0, token.log_prob, token.top),) if told else ()
            end = None
            if word or token.last:
                reason = "stop" if word or token.id is None else "length"
                end = End(reason, word, len(ask.ids), count)
            yield Piece(shown, ids, probs, count, end)
            if end is not None:
                return

    def _prob(self, id: int, log_prob: float, top: Sequence[tuple[int, float]]) -> TokenProb:
        return TokenProb(
            id, self._bytes(id), log_prob, tuple(TokenProb(t, self._bytes(t), p) for t, p in top)
        )

    def _bytes(self, id: int) -> bytes:
        return self._loaded.tokenizer.decode([id], clean_up_tokenization_spaces=False).encode()


def _cut(text: str, stops: Sequence[str]) -> tuple[int, str | None]:
    """Where the first stop text begins, and which it is."""
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    return min(found) if found else (len(text), None)


def _pending(text: str, stops: Sequence[str]) -> int:
    """Characters at the end that may be the beginning of a stop text."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    sizes = range(min(longest, len(text)), 0, -1)
    return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in stops)), 0)
