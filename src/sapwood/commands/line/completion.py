"""What a shell offers after Tab beside verbs and options: keys of the config with their values, and runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer

Offers = list[tuple[str, str]]  # what completes the word, and what a shell that shows help says beside it


def offer_settings(context: typer.Context, incomplete: str) -> Offers:
    """``section.key=``, or the values of a key that takes one of few."""
    key, equals, _ = incomplete.partition("=")
    if equals:
        return _beginning(incomplete, ((f"{key}={value}", "") for value in _choices(key)))
    before = [str(context.params.get("config", "")), *(context.params.get("overrides") or ())]
    if before[-1] == "=":  # to bash, = ends a word
        return _beginning(incomplete, ((value, "") for value in _choices(before[-2])))
    keys = _keys(incomplete)
    return [(f"{name}=", told) for name, told in keys] + (_with_values(keys[0][0]) if len(keys) == 1 else [])


def offer_config(context: typer.Context, incomplete: str) -> Offers:
    """As `offer_settings`, for a word that may also be a file: a shell offers files if nothing else is."""
    return offer_settings(context, incomplete) if incomplete else []


def offer_topics(context: typer.Context, incomplete: str) -> Offers:
    """Verbs, sections and keys, which `sapwood help` explains."""
    root = context.find_root().command
    verbs = ((name, verb.get_short_help_str()) for name, verb in getattr(root, "commands", {}).items())
    return _beginning(incomplete, verbs) + (_keys(incomplete) if incomplete else [])


def offer_runs(context: typer.Context, incomplete: str) -> Offers:
    """``last`` and the runs' ids, the newest first."""
    from sapwood.run.query import LAST, run_folders

    runs = run_folders(Path(context.params.get("runs") or "runs"))
    return _beginning(
        incomplete, [(LAST, "the newest run")] * bool(runs) + [(run.name, "") for run in reversed(runs)]
    )


def _keys(incomplete: str) -> Offers:
    from sapwood.config.faults import help_of
    from sapwood.config.names import sections_of
    from sapwood.config.sections import RunConfig

    sections = sections_of(RunConfig)
    fields = [(name, field) for name, field in RunConfig.model_fields.items() if name not in sections]
    fields += [
        (f"{name}.{key}", at) for name, kind in sections.items() for key, at in kind.model_fields.items()
    ]
    return _beginning(incomplete, ((name, help_of(field)) for name, field in fields))


def _with_values(key: str) -> Offers:
    """Beside ``key=`` alone, bash and zsh would write a space behind the sign, which ends the word."""
    from sapwood.commands.line.keys import example

    return [(f"{key}={value}", "") for value in _choices(key) or [example(key)]]


def _choices(key: str) -> list[str]:
    from sapwood.commands.line.keys import choices
    from sapwood.config.faults import field_below
    from sapwood.config.sections import RunConfig

    return choices(key) if field_below(RunConfig, key.split(".")) is not None else []


def _beginning(incomplete: str, offers: Iterable[tuple[str, str]]) -> Offers:
    return [(word, told) for word, told in offers if word.startswith(incomplete)]
