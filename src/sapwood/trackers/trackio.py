"""Trackio: one SQLite file for each project, in ``TRACKIO_DIR`` or ``runs/trackers/trackio``; ``trackio
show`` serves it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from sapwood.errors import ConfigError
from sapwood.trackers.tracker import Figures, Subject, Tracker, as_text


class Trackio(Tracker):
    def __init__(self, subject: Subject) -> None:
        space = os.environ.get("TRACKIO_SPACE_ID")
        if subject.cloud and space is None:
            mend = "set TRACKIO_SPACE_ID, or track.mode=offline"
            raise ConfigError(
                "Trackio has no cloud of its own", "track.mode=cloud", "no Space was named", mend
            )
        os.environ.setdefault("TRACKIO_DIR", str(subject.shared.absolute()))
        import trackio  # reads TRACKIO_DIR when it is imported

        self._markdown = trackio.Markdown
        self._run = trackio.init(
            project=subject.project,
            name=subject.id,
            resume="allow",
            config=dict(subject.config),
            space_id=space if subject.cloud else None,
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.place = os.environ["TRACKIO_DIR"]
        self.see = f"TRACKIO_DIR={quote(self.place)} trackio show --project {subject.project}"
        if subject.cloud:
            self.see = f"https://huggingface.co/spaces/{space}"

    def figures(self, step: int, time: float, values: Figures) -> None:
        self._run.log(dict(values), step=step)

    def samples(self, step: int, time: float, answers: Sequence[Mapping[str, Any]]) -> None:
        text = "\n\n---\n\n".join(as_text(answer) for answer in answers)
        self._run.log({"samples": self._markdown(text)}, step=step)

    def close(self, finished: bool) -> None:
        self._run.finish()


OPEN = Trackio
