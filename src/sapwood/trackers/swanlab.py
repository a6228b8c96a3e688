"""SwanLab (the callback of tutorial 001, without its question for a key).

Without the cloud it writes ``runs/trackers/swanlab/run-…``, which ``swanlab sync`` sends later. With its
dashboard (the extra ``swanlab[dashboard]``, which ours brings) it also keeps the small database that
``swanlab watch`` shows. In the cloud the key comes from ``SWANLAB_API_KEY`` or an earlier ``swanlab login``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from shlex import quote
from typing import Any

import swanlab

from sapwood.errors import ConfigError
from sapwood.trackers.tracker import Figures, Subject, Tracker, as_text

# The host's name, its packages, the git remote and the terminal's text are nobody's business by default.
PRIVATE = swanlab.Settings.Probe(
    hardware=False, runtime=False, requirements=False, conda=False, git=False, monitor=False
)
HAS_BOARD = find_spec("swanboard") is not None
SILENT = swanlab.Settings.Terminal(proxy_type="none")


class SwanLab(Tracker):
    def __init__(self, subject: Subject) -> None:
        settings = swanlab.Settings(interactive=False, probe=PRIVATE, terminal=SILENT)
        if subject.cloud and settings.api_key is None:
            mend = "set SWANLAB_API_KEY, or `swanlab login`, or track.mode=offline"
            raise ConfigError("SwanLab's cloud needs a key", "track.mode=cloud", "none was found", mend)
        subject.shared.mkdir(parents=True, exist_ok=True)
        self._run = swanlab.init(
            mode="online" if subject.cloud else "local" if HAS_BOARD else "offline",
            log_dir=str(subject.shared),
            project=subject.project,
            name=subject.name,
            id=_known(subject.id),
            resume="allow",
            config=dict(subject.config),
            settings=settings,
        )
        self.place = str(subject.shared)
        self.see = f"swanlab watch {quote(self.place)}"
        if subject.cloud:
            self.see = str(getattr(self._run, "url", None) or "https://swanlab.cn")
        elif not HAS_BOARD:
            self.see = (
                f"swanlab sync {quote(self.place)} sends it; a board here: pip install 'swanlab[dashboard]'"
            )

    def figures(self, step: int, time: float, values: Figures) -> None:
        self._run.log(dict(values), step=step)

    def samples(self, step: int, time: float, answers: Sequence[Mapping[str, Any]]) -> None:
        texts = [swanlab.Text(as_text(answer), caption=str(answer.get("row"))) for answer in answers]
        self._run.log({"samples": texts}, step=step)

    def close(self, finished: bool) -> None:
        self._run.finish("success" if finished else "aborted")


def _known(id: str) -> str:
    """A run id as SwanLab takes it."""
    return "".join(c if c.isalnum() or c == "-" else "-" for c in id)[-64:]


OPEN = SwanLab
