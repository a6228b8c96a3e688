"""Faults that a script or a config can have, each with a name, a reason and a source."""

from sapwood.migrate.rules import answers, code, labels, system, training
from sapwood.migrate.rules.rule import CHECKS, Case, Fault, find_faults, texts

__all__ = [
    "CHECKS",
    "Case",
    "Fault",
    "answers",
    "code",
    "find_faults",
    "labels",
    "system",
    "texts",
    "training",
]
