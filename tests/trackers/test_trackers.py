"""Each tracker for real and offline: a finished run is sent, and what was written is read back."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from sapwood.cli import app
from sapwood.run.query import read_events
from tests.run.conftest import Make

PROJECT = "orchard"
STEPS = 8
SAMPLE_STEPS = (0, 4, 8)  # where make_run evaluates and samples


@dataclass(frozen=True)
class Written:
    """What a tracker kept: the config, for each curve its (step, value) pairs, and all text together."""

    config: dict[str, Any]
    curves: dict[str, list[tuple[int, float]]]
    text: str


def log_records(path: Path) -> Iterator[bytes]:
    """The records of a LevelDB log behind a header of seven bytes, which SwanLab and W&B both write."""
    content, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield whole
            whole = b""


def read_tensorboard(run: Path) -> Written:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kept = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    kept.Reload()
    tags = kept.Tags()
    texts = {
        tag: "\n".join(t.decode() for event in kept.Tensors(tag) for t in event.tensor_proto.string_val)
        for tag in tags["tensors"]
    }
    config = json.loads(texts["config/text_summary"].removeprefix("```json\n").removesuffix("\n```"))
    curves = {tag: [(e.step, e.value) for e in kept.Scalars(tag)] for tag in tags["scalars"]}
    return Written(config, curves, texts["samples/text_summary"])


def read_swanlab(run: Path) -> Written:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record

    (folder,) = (run.parent / "trackers" / "swanlab").glob("run-*")
    tree = YAML(typ="safe").load((folder / "files" / "config.yaml").read_text(encoding="utf-8"))
    curves: dict[str, list[tuple[int, float]]] = {}
    for content in log_records(next(folder.glob("*.swanlab"))):
        record = Record.FromString(content)
        if record.WhichOneof("record_type") == "scalar":
            curves.setdefault(record.scalar.key, []).append((record.scalar.step, record.scalar.value.number))
    text = "\n".join(p.read_text(encoding="utf-8") for p in (folder / "media" / "text").iterdir())
    return Written({key: entry["value"] for key, entry in tree.items()}, curves, text)


def read_wandb(run: Path) -> Written:
    from wandb.proto.wandb_internal_pb2 import Record

    (folder,) = (run.parent / "trackers" / "wandb" / "wandb").glob("offline-run-*")
    config: dict[str, Any] = {}
    curves: dict[str, list[tuple[int, float]]] = {}
    for content in log_records(next(folder.glob("*.wandb"))):
        record = Record.FromString(content)
        for item in [*record.run.config.update, *record.config.update]:
            config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        step = record.history.step.num
        for item in record.history.item:
            key, value = item.key or ".".join(item.nested_key), json.loads(item.value_json)
            if isinstance(value, float | int):
                curves.setdefault(key, []).append((step, value))
    tables = sorted(folder.glob("files/media/table/*.json"))
    return Written(config, curves, "\n".join(p.read_text(encoding="utf-8") for p in tables))


def read_trackio(run: Path, project: str = PROJECT) -> Written:
    base = sqlite3.connect(run.parent / "trackers" / "trackio" / f"{project}.db")
    ((config,),) = base.execute("select config from configs where run_name = ?", (run.name,))
    curves: dict[str, list[tuple[int, float]]] = {}
    texts: list[str] = []
    for step, metrics in base.execute("select step, metrics from metrics where run_name = ?", (run.name,)):
        for key, value in json.loads(metrics).items():
            if isinstance(value, dict):
                texts.append(value["_value"])
            else:
                curves.setdefault(key, []).append((step, value))
    base.close()
    return Written(json.loads(config), curves, "\n".join(texts))


def read_mlflow(run: Path) -> Written:
    from mlflow.tracking import MlflowClient

    folder = run.parent / "trackers" / "mlflow"
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(PROJECT)
    assert experiment is not None
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.info.status == "FINISHED"
    curves = {
        key: [(point.step, point.value) for point in client.get_metric_history(kept.info.run_id, key)]
        for key in kept.data.metrics
    }
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("samples/*.md"))]
    return Written(dict(kept.data.params), curves, "\n".join(texts))


READERS: dict[str, Callable[[Path], Written]] = {
    "tensorboard": read_tensorboard,
    "swanlab": read_swanlab,
    "wandb": read_wandb,
    "trackio": read_trackio,
    "mlflow": read_mlflow,
}


def sapwood_track(run: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a person gives it, with no key in reach and nothing to read from."""
    keyless = {
        k: v for k, v in os.environ.items() if not k.startswith(("SWANLAB", "WANDB", "MLFLOW", "TRACK"))
    }
    home = {"HOME": str(run.parent)}
    return subprocess.run(
        [sys.executable, "-m", "sapwood", "track", str(run), *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, env=keyless | home,
    )  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_what_was_sent_can_be_read_back(name: str, make_run: Make) -> None:
    run = make_run(name="keeper", steps=STEPS)
    done = sapwood_track(run, "--to", name, "--project", PROJECT)
    assert done.returncode == 0, done.stderr
    kept = READERS[name](run)
    assert str(kept.config["train.lr"]) == "0.0001"
    assert str(kept.config["lora.rank"]) == "8"
    events, _ = read_events(run)
    losses = [(e["step"], e["data"]["loss"]) for e in events if e["kind"] == "stepped"]
    held_out = [(e["step"], e["data"]["loss"]) for e in events if e["kind"] == "evaluated"]
    assert kept.curves["train/loss"] == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in losses]
    assert kept.curves["eval/loss"] == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in held_out]
    assert {"train/learning_rate", "train/grad_norm", "eval/perplexity"} <= set(kept.curves)
    assert kept.text.count("What grows?") == len(SAMPLE_STEPS)
    assert "Ah, the north wall." in kept.text
    again = CliRunner().invoke(app, ["track", str(run), "--to", name, "--json"])  # it opens no tracker
    assert json.loads(again.stdout)["trackers"] == [{"tracker": name, "place": None, "events": 0}]
