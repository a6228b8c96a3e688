"""Variables of the environment that name a tracker's project."""

from __future__ import annotations

from sapwood.migrate.convert import CONVERT
from sapwood.migrate.draft import Draft
from sapwood.migrate.options.given import Given

_PROJECTS = {
    "WANDB_PROJECT": "wandb", "SWANLAB_PROJECT": "swanlab", "TRACKIO_PROJECT": "trackio",
    "MLFLOW_EXPERIMENT_NAME": "mlflow",
}  # fmt: skip


def read_environment(draft: Draft, given: Given) -> None:
    """The project of the trackers that are used, if no call names one."""
    for name, tracker in _PROJECTS.items():
        word = given.environment.get(name)
        used = tracker in draft.settings.get("track.to", []) and "track.project" not in draft.settings
        if word is not None and word.known and used:
            CONVERT["project"](draft, name, word.text, word.line, "", "")
