"""Weights & Biases. Offline it writes ``runs/trackers/wandb/offline-run-…``, which ``wandb sync`` sends
later. Its web board needs an account or a server of one's own; ``wandb leet`` shows the curves in the
terminal without either. In the cloud the key comes from ``WANDB_API_KEY`` or an earlier ``wandb login``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

import wandb

from sapwood.errors import ConfigError
from sapwood.trackers.tracker import Figures, Subject, Tracker

COLUMNS = ("row", "prompt", "answer", "reference", "num_tokens", "stopped")


class WeightsAndBiases(Tracker):
    def __init__(self, subject: Subject) -> None:
        if subject.cloud and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
            mend = "set WANDB_API_KEY, or `wandb login`, or track.mode=offline"
            raise ConfigError("W&B's cloud needs a key", "track.mode=cloud", "none was found", mend)
        subject.shared.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            dir=str(subject.shared),
            project=subject.project,
            name=subject.name,
            id=subject.id,
            resume="allow",
            config=dict(subject.config),
            settings=wandb.Settings(
                mode="online" if subject.cloud else "offline",
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
            ),
        )
        self.place = str(subject.shared / "wandb")
        self.see = str(self._run.url) if subject.cloud else f"wandb leet {quote(self.place)}"

    def figures(self, step: int, time: float, values: Figures) -> None:
        self._run.log({**values, "_timestamp": time}, step=step)

    def samples(self, step: int, time: float, answers: Sequence[Mapping[str, Any]]) -> None:
        rows: list[Any] = [[str(answer.get(column)) for column in COLUMNS] for answer in answers]
        self._run.log({"samples": wandb.Table(columns=list(COLUMNS), data=rows)}, step=step)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


OPEN = WeightsAndBiases
