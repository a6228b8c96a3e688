"""Which columns of an unknown table are the prompt and the answer: by their names, then by what they hold.

A guess is proposed, and used only if the user agrees.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sapwood.data.problems import printable
from sapwood.data.shapes.names import REASONING, canonical

ROWS = 200  # of a file, that a guess looks at
LONG = 12  # characters on average, from which on a column may be a prompt or an answer
VARIED = 0.3  # share of different values, from which on it may be one
_PROMPT = (
    "prompt", "question", "query", "quer", "instruct", "input", "request", "ask", "user", "customer",
    "client", "human", "subject", "source", "src", "ticket", "inquiry", "enquiry", "problem", "issue",
    "utterance", "frage", "anfrage", "kunde", "pregunta", "domanda", "вопрос",
    "问", "提示", "指令", "输入", "客户", "用户",
)  # fmt: skip
_ANSWER = (
    "answer", "response", "reply", "replie", "respond", "output", "completion", "target", "tgt", "assistant",
    "agent", "bot", "gpt", "solution", "resolution", "result", "antwort", "respuesta", "réponse", "reponse",
    "risposta", "ответ", "答", "回复", "输出", "客服",
)  # fmt: skip
_SHORT = {"q": 1, "a": -1, "ans": -1, "in": 1, "out": -1}  # whole words: 1 asks, -1 answers
_SYSTEM = ("system", "persona", "系统")
_WORDS = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Guess:
    """prompt, answer, system: columns. sure: the names say which is which."""

    prompt: str
    answer: str
    system: str | None = None
    sure: bool = True

    def columns(self) -> dict[str, str]:
        """What data.columns would say."""
        found = {"prompt": self.prompt, "completion": self.answer}
        return found if self.system is None else {**found, "system": self.system}

    def turned(self) -> Guess:
        """The other way round."""
        return Guess(self.answer, self.prompt, self.system, self.sure)

    def words(self) -> str:
        """What to add to a command."""
        return " ".join(f"data.columns.{key}={_quoted(column)}" for key, column in self.columns().items())

    def told(self) -> str:
        """The question, each answer ready to copy."""
        return self.words() if self.sure else f"{self.words()} or {self.turned().words()}"


def guess_columns(rows: Sequence[Mapping[str, Any]]) -> Guess | None:
    """The columns of these rows; None if no two of them hold text that varies."""
    texts = [column for column in {key: None for row in rows for key in row} if _is_text(rows, column)]
    system = next((column for column in texts if _says(column, _SYSTEM)), None)
    rest = [column for column in texts if column != system and canonical(column) not in REASONING]
    asks = [column for column in rest if _side(column) > 0]
    answers = [column for column in rest if _side(column) < 0]
    if len(asks) == len(answers) == 1:
        return Guess(asks[0], answers[0], system)
    open_ = [column for column in rest if column not in (*asks, *answers)] if len(rest) == 2 else []
    if len(open_) == 1 and asks:
        return Guess(asks[0], open_[0], system)
    if len(open_) == 1 and answers:
        return Guess(open_[0], answers[0], system)
    first = next(iter(asks or [column for column in rest if column not in answers]), None)
    last = [column for column in answers or rest if column != first]
    if first is None or not last:
        return None
    return Guess(first, max(last, key=lambda column: _length(rows, column)), system, sure=False)


def _side(column: str) -> int:
    """Above 0 for a name that asks, below for one that answers."""
    words = [word.casefold() for word in _WORDS.findall(_CAMEL.sub(" ", column))]
    short = sum(_SHORT.get(word, 0) for word in words)
    return short + _says(column, _PROMPT) - _says(column, _ANSWER)


def _says(column: str, names: Sequence[str]) -> bool:
    folded = column.casefold()
    return any(name in folded for name in names)


def _is_text(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Does it hold words that differ from row to row? Not numbers, dates, addresses, one of a few labels."""
    values = _filled(rows, column)
    if not values or not all(isinstance(value, str) for value in values):
        return False
    worded = sum(
        bool(_WORDS.search(value)) and not value.startswith(("http://", "https://")) for value in values
    )
    if worded < 0.9 * len(values):
        return False
    named = _side(column) or _says(column, _SYSTEM)
    varied = len(rows) < 5 or len({*values}) >= VARIED * len(values)
    return bool(named) or (varied and _length(rows, column) >= LONG) or len(rows) < 5


def _filled(rows: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    return [row[column] for row in rows if row.get(column) not in (None, "")]


def _length(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    values = _filled(rows, column)
    return sum(len(str(value)) for value in values) / max(1, len(values))


def _quoted(column: str) -> str:
    """As it can be typed into a shell."""
    text = printable(column)
    return text if re.fullmatch(r"[\w.-]+", text) else f"'{text}'"
