"""All rows of a run or of a config, as a table that is searched, filtered and sorted."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.prepare.examples import Examples

ISSUES = ("duplicate", "contradiction", "cut", "end", "empty", "odd", "outlier")
NEAR_EMPTY = 3  # learnt tokens, the stop token among them, at most
AT_ONCE = 2000  # rows that are decoded at once
PREVIEW = 180  # characters of a row in the table
WINDOW = 64  # tokens on each side of where the answer begins that are decoded for it
SAMPLED = 100  # rows that tell what all prompts share
# characters that are seldom meant: no character, controls, private use, marks of a wrong decoding
ODD = re.compile(
    "[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ue000-\uf8ff\u200b\u2060\ufeff]|Ã[\x80-\xbf©¨¤¶¼]|â€|ï»¿|锟斤拷"
)

Flags = NDArray[np.bool_]


@dataclass(slots=True)
class RowTable:
    """Examples of both sides, the learnt ones first.

    length, learnt: int64[R], tokens and targets. flags: for each issue, bool[R]. held: from which row on rows
    are held out. loss: float32[R] in nats a target, not a number if it wasn't measured. texts: the fast
    tokenizer, which decodes; stop_ids: on which an answer may end.
    """

    examples: Examples
    held: int
    texts: Any
    stop_ids: Sequence[int]
    report: Mapping[str, Any]
    length: NDArray[np.int64] = field(init=False)
    learnt: NDArray[np.int64] = field(init=False)
    flags: dict[str, Flags] = field(init=False)
    loss: NDArray[np.float32] = field(init=False)
    _shared: tuple[int, int] = field(init=False)
    _texts: list[str] = field(default_factory=list[str])
    _ready: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        examples = self.examples
        self.length = examples.lengths
        sums = np.concatenate([[0], np.cumsum(examples.trained, dtype=np.int64)])
        first = examples.bounds[0]
        self.learnt = sums[examples.bounds[1:] - first] - sums[examples.bounds[:-1] - first]
        self.loss = np.full(len(examples), np.nan, np.float32)
        self.flags = self._issues()
        self._shared = self._edges() if len(examples) else (0, 0)
        threading.Thread(target=self._decode, daemon=True).start()

    # --- what a person asks -------------------------------------------------------------------------------

    def find(
        self, *, search: str = "", issue: str = "", side: str = "", sort: str = "", down: bool = False
    ) -> NDArray[np.int64]:
        """The places of the rows that are wanted, in the order that is wanted."""
        chosen = np.ones(len(self.examples), np.bool_)
        if side in ("train", "held"):
            chosen[self.held :] = side == "held"
            chosen[: self.held] = side == "train"
        if issue in ISSUES:
            if issue == "odd":
                self._ready.wait()
            chosen &= self.flags[issue]
        if search:
            self._ready.wait()
            wanted = search.casefold()
            chosen &= np.fromiter((wanted in text for text in self._texts), np.bool_, len(self._texts))
        places = np.flatnonzero(chosen)
        key = self._key(sort)
        if key is None:
            return places[::-1] if down else places
        values = key[places]
        order = np.argsort(-values if down else values, kind="stable")  # not a number comes last
        return places[order]

    def counts(self) -> dict[str, int | None]:
        """How many rows have each issue; None while that isn't known yet."""
        known = self._ready.is_set()
        return {
            issue: int(np.count_nonzero(self.flags[issue])) if known or issue != "odd" else None
            for issue in ISSUES
        }

    def row(self, at: int) -> dict[str, Any]:
        """A line of the table."""
        loss = float(self.loss[at])
        return {
            "at": at,
            "row": str(self.examples.row(at)),
            "tokens": int(self.length[at]),
            "share": float(self.learnt[at]) / max(1, int(self.length[at])),
            "held": at >= self.held,
            "issues": [issue for issue in ISSUES if self.flags[issue][at]],
            "loss": None if np.isnan(loss) else loss,
            "text": self.preview(at),
        }

    def preview(self, at: int) -> str:
        """The end of what stands before the first learnt token, and the beginning of what is learnt. What all
        prompts share, for example a system prompt, is left out."""
        example = self.examples[at]
        start = self._prompt(at)
        first, last = self._shared
        own = example.ids[first : start - last] if first + last < start else example.ids[:start]
        decode: Any = self.texts.decode
        before = " ".join(decode(own[-WINDOW:].tolist(), skip_special_tokens=True).split())
        if len(own) > WINDOW or len(before) > PREVIEW // 2:
            before = _from_a_word(before[-PREVIEW // 2 :])
        after = decode(example.ids[start : start + WINDOW].tolist(), skip_special_tokens=True)
        return f"{before} → {' '.join(after.split())[:PREVIEW]}"

    # --- inside -------------------------------------------------------------------------------------------

    def _prompt(self, at: int) -> int:
        """How many tokens stand before the first learnt one of a row; all if it learns nothing."""
        example = self.examples[at]
        learnt = np.flatnonzero(example.trained)
        return int(learnt[0]) if len(learnt) else len(example)

    def _edges(self) -> tuple[int, int]:
        """How many tokens the prompts of a sample of the rows share at their beginning and end. Words of
        the rows that happen to be the same aren't counted."""
        places = np.unique(np.linspace(0, len(self.examples) - 1, SAMPLED, dtype=np.int64)).tolist()
        prompts = [self.examples[at].ids[: self._prompt(at)].tolist() for at in places]
        begin, end = (_shared(parts) for parts in (prompts, [prompt[::-1] for prompt in prompts]))
        if len(prompts[0]) in (len(begin), len(end)):  # nothing tells what is a row's own
            return 0, 0
        control = self.texts.get_added_tokens_decoder()
        ends = [id in control or self.texts.decode([id]).endswith("\n") for id in begin]
        begins = [id in control for id in end]
        return _last(ends), _last(begins)

    def _key(self, sort: str) -> NDArray[Any] | None:
        keys = {"tokens": self.length, "share": self.learnt / np.maximum(1, self.length), "loss": self.loss}
        return keys.get(sort)

    def _issues(self) -> dict[str, Flags]:
        whole, prompts = self._hashes()
        equal = _repeated(whole)
        stops = np.isin(self.examples.ids, self.stop_ids) & self.examples.trained
        ends = self._any(stops)
        cut = ~ends & (self.report.get("cut", 0) > 0) & (self.length >= int(self.report["max_length"]) - 1)
        return {
            "duplicate": equal,
            "contradiction": _repeated(prompts) & ~_same_answer(whole, prompts),
            "cut": cut,
            "end": ~ends & ~cut,
            "empty": self.learnt <= NEAR_EMPTY,
            "odd": np.zeros(len(self.examples), np.bool_),
            "outlier": _outliers(self.length),
        }

    def _any(self, flags: Flags) -> Flags:
        """Whether a flag is set anywhere in each row."""
        sums = np.concatenate([[0], np.cumsum(flags, dtype=np.int64)])
        first = self.examples.bounds[0]
        return sums[self.examples.bounds[1:] - first] > sums[self.examples.bounds[:-1] - first]

    def _hashes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A hash of each row's ids, and of the ids before its first learnt token."""
        examples = self.examples
        ids = np.ascontiguousarray(examples.ids).view(np.uint8).data
        learnt = np.flatnonzero(examples.trained)
        firsts = np.searchsorted(learnt, examples.bounds[:-1])
        whole, prompt = np.empty(len(examples), np.int64), np.empty(len(examples), np.int64)
        edges = examples.bounds.tolist()
        for at in range(len(examples)):
            start, stop = edges[at], edges[at + 1]
            first = int(learnt[firsts[at]]) if firsts[at] < len(learnt) else stop
            whole[at] = hash(bytes(ids[4 * start : 4 * stop]))
            # a document has no question, so no other row can contradict it
            prompt[at] = hash(bytes(ids[4 * start : 4 * first])) if start < first else whole[at]
        return whole, prompt

    def _decode(self) -> None:
        """All rows as text, without case, for the search; on the way, odd characters."""
        decode: Any = self.texts.decode_batch
        odd = self.flags["odd"]
        for start in range(0, len(self.examples), AT_ONCE):
            part = [
                self.examples[at].ids.tolist()
                for at in range(start, min(start + AT_ONCE, len(self.examples)))
            ]
            texts: Sequence[str] = decode(part, skip_special_tokens=True)
            for i, text in enumerate(texts):
                odd[start + i] = ODD.search(text) is not None
            self._texts += [text.casefold() for text in texts]
        self._ready.set()


def _shared(lists: Sequence[list[int]]) -> list[int]:
    """What all lists begin with."""
    first, last = min(lists), max(lists)
    return [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]


def _last(flags: Sequence[bool]) -> int:
    """How many flags there are up to the last one that is set."""
    return max((i + 1 for i, flag in enumerate(flags) if flag), default=0)


def _from_a_word(text: str) -> str:
    """A text whose beginning was cut off, from its first whole word if it has blanks."""
    _, blank, rest = text.partition(" ")
    return f"…{rest if blank and len(rest) > len(text) // 2 else text}"


def _repeated(keys: NDArray[np.int64]) -> Flags:
    """Which values occur more than once."""
    _, back, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return counts[back] > 1


def _same_answer(whole: NDArray[np.int64], prompts: NDArray[np.int64]) -> Flags:
    """Rows whose prompt has the same answer in all rows."""
    order = np.lexsort((whole, prompts))
    new = np.ones(len(order), np.bool_)
    new[1:] = (whole[order][1:] != whole[order][:-1]) | (prompts[order][1:] != prompts[order][:-1])
    _, back = np.unique(prompts, return_inverse=True)
    different = np.bincount(back[order], weights=new, minlength=int(back.max(initial=-1)) + 1)
    return different[back] <= 1


def _outliers(length: NDArray[np.int64]) -> Flags:
    """Rows far longer than the others: above the middle half of all lengths by three times its width."""
    if not len(length):
        return np.zeros(0, np.bool_)
    low, high = np.percentile(length, (25, 75))
    return length > high + 3 * max(high - low, 1)
