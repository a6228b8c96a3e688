"""MLflow: the server that ``MLFLOW_TRACKING_URI`` names, or else ``runs/trackers/mlflow/mlflow.db``
(``mlflow ui --backend-store-uri sqlite:///…`` shows it)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from shlex import quote
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when the library is imported
from mlflow.entities import Metric, Param, RunStatus
from mlflow.tracking import MlflowClient

from sapwood.machine.extras import python
from sapwood.trackers.tracker import Figures, Subject, Tracker, as_text

RUN_ID = "sapwood.run"  # the tag by which a resumed run is found again
MAX_VALUE = 6000  # characters that MLflow takes for a parameter
MAX_PARAMS = 100  # in one call


class MLflow(Tracker):
    def __init__(self, subject: Subject) -> None:
        subject.shared.mkdir(parents=True, exist_ok=True)
        folder = subject.shared.absolute()
        self.place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        self.see = f"mlflow ui --backend-store-uri {quote(self.place)}"
        if self.place.startswith("http"):
            self.see = self.place
        elif find_spec("flask") is None:
            self.see += f"  (the board is in the whole of mlflow: {python()} -m pip install mlflow)"
        self._client = MlflowClient(tracking_uri=self.place)
        self._id = self._find(subject) or self._create(subject)

    def figures(self, step: int, time: float, values: Figures) -> None:
        points = [Metric(key, value, round(time * 1000), step) for key, value in values.items()]
        self._client.log_batch(self._id, metrics=points)

    def samples(self, step: int, time: float, answers: Sequence[Mapping[str, Any]]) -> None:
        text = "\n\n---\n\n".join(as_text(answer) for answer in answers)
        self._client.log_text(self._id, text, f"samples/step-{step:06d}.md")

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, RunStatus.to_string(_ENDED[finished]))

    def _find(self, subject: Subject) -> str | None:
        experiment = self._client.get_experiment_by_name(subject.project)
        if experiment is None:
            return None
        chosen = f"tags.`{RUN_ID}` = '{subject.id}'"
        found = self._client.search_runs([experiment.experiment_id], chosen, max_results=1)
        if not found:
            return None
        self._client.update_run(found[0].info.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        return found[0].info.run_id

    def _create(self, subject: Subject) -> str:
        experiment = self._client.get_experiment_by_name(subject.project)
        if experiment is not None:
            place = experiment.experiment_id
        else:
            local = self.place.startswith("sqlite:")
            files = (subject.shared.absolute() / "files").as_uri() if local else None
            place = self._client.create_experiment(subject.project, artifact_location=files)
        run = self._client.create_run(place, run_name=subject.name, tags={RUN_ID: subject.id})
        params = [Param(key, str(value)[:MAX_VALUE]) for key, value in subject.config.items()]
        for start in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(run.info.run_id, params=params[start : start + MAX_PARAMS])
        return run.info.run_id


_ENDED = {True: RunStatus.FINISHED, False: RunStatus.KILLED}
OPEN = MLflow
