"""TensorBoard: event files in the run's folder, so that ``tensorboard --logdir runs`` shows every run.

The files' format is that of TensorFlow's ``Event`` and ``Summary`` messages; no torch and no TensorFlow is
loaded to write them.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from tensorboard.summary.writer.event_file_writer import EventFileWriter

from sapwood.trackers.tracker import Figures, Subject, Tracker, as_text


def _messages(name: str) -> Any:
    """A module of generated classes, which a type checker can't look into."""
    return importlib.import_module(f"tensorboard.compat.proto.{name}_pb2")


Event = _messages("event").Event
Summary, SummaryMetadata = _messages("summary").Summary, _messages("summary").SummaryMetadata
TensorProto, TensorShapeProto = _messages("tensor").TensorProto, _messages("tensor_shape").TensorShapeProto
DT_STRING = _messages("types").DT_STRING


class TensorBoard(Tracker):
    def __init__(self, subject: Subject) -> None:
        self.place = str(subject.run / "tensorboard")
        self.see = f"tensorboard --logdir {quote(str(subject.run.parent))}"
        self._writer = EventFileWriter(self.place)
        shown = json.dumps(dict(subject.config), ensure_ascii=False, indent=1, default=str)
        self._write(0, None, [_text("config", [f"```json\n{shown}\n```"])])

    def figures(self, step: int, time: float, values: Figures) -> None:
        self._write(step, time, [Summary.Value(tag=key, simple_value=value) for key, value in values.items()])

    def samples(self, step: int, time: float, answers: Sequence[Mapping[str, Any]]) -> None:
        self._write(step, time, [_text("samples", [as_text(answer) for answer in answers])])

    def close(self, finished: bool) -> None:
        self._writer.close()

    def _write(self, step: int, time: float | None, values: list[Any]) -> None:
        event = Event(step=step, summary=Summary(value=values))
        if time is not None:
            event.wall_time = time
        self._writer.add_event(event)


def _text(tag: str, texts: Sequence[str]) -> Any:
    """A value of the text plugin: a vector of strings."""
    plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(texts))])
    tensor = TensorProto(dtype=DT_STRING, string_val=[t.encode() for t in texts], tensor_shape=shape)
    return Summary.Value(tag=f"{tag}/text_summary", metadata=plugin, tensor=tensor)


OPEN = TensorBoard
