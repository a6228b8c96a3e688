"""Which turns of a conversation are learnt."""

from __future__ import annotations

from typing import Literal

from sapwood.errors import DataError
from sapwood.types import Conversation

TrainOn = Literal["assistant", "last", "all"]


def trained_turns(conversation: Conversation, train_on: TrainOn) -> list[int]:
    """Indices of the messages to learn. Raises DataError if there is none, or one that can't be learnt."""
    answers = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
    chosen = set(answers[-1:] if train_on == "last" else answers)
    for i, message in enumerate(conversation.messages):
        if message.trained is False and train_on == "all":
            raise DataError(
                f"[turn] message {i + 1} is marked as not to be trained",
                str(conversation.row),
                "template.train_on=all would train it all the same",
                "set template.train_on=assistant, or delete the mark",
            )
        if message.weight not in (None, 1) and train_on == "all":
            raise DataError(
                f"[turn] message {i + 1} has the weight {message.weight:g}",
                str(conversation.row),
                "template.train_on=all gives every turn the same weight",
                "set template.train_on=assistant, or data.ignore=weight",
            )
        if message.trained and message.role != "assistant":
            raise DataError(
                f"[turn] message {i + 1} can't be trained",
                str(conversation.row),
                f"its role is {message.role}",
                "mark assistant turns only",
            )
        if message.trained is not None:
            chosen = chosen | {i} if message.trained else chosen - {i}
    if not chosen:
        raise DataError(
            "[no-target] the row has no answer to learn",
            str(conversation.row),
            "no assistant turn is left to train on",
            "add an answer, or remove the row",
        )
    if 0 in chosen:
        raise DataError(
            "[turn] the assistant speaks first",
            str(conversation.row),
            "no turn before it could ask for the answer",
            "put a user message before it, or set train: false on it",
        )
    return sorted(chosen)
