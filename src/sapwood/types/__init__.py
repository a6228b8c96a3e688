"""The nouns that the stages hand to each other. Frozen, slotted, and free of torch at run time."""

from sapwood.types.adapter import CHECK, Adapter, Kind
from sapwood.types.events import Evaluated, Event, Finished, Probe, Sample, Stepped, Stop
from sapwood.types.model import NUMBER_FORMATS, Base, BaseSpec, Head, Rows
from sapwood.types.packs import Pack, Segment
from sapwood.types.rows import (
    Conversation,
    Example,
    Message,
    Rendered,
    Role,
    Row,
    RowId,
    Span,
    TrainData,
    total_weight,
)

__all__ = [
    "CHECK",
    "NUMBER_FORMATS",
    "Adapter",
    "Base",
    "BaseSpec",
    "Conversation",
    "Evaluated",
    "Event",
    "Example",
    "Finished",
    "Head",
    "Kind",
    "Message",
    "Pack",
    "Probe",
    "Rendered",
    "Role",
    "Row",
    "RowId",
    "Rows",
    "Sample",
    "Segment",
    "Span",
    "Stepped",
    "Stop",
    "TrainData",
    "total_weight",
]
