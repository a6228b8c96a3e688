"""Everything about a run that is known before a weight is loaded: the tokenizer, the proven examples, the
probes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sapwood.config import RunConfig
from sapwood.data.cache import pack_examples, read_examples
from sapwood.data.formats import ReadReport, read_conversations
from sapwood.data.split import contradictions, duplicates, split_eval
from sapwood.model.base import inspect_base, skeleton
from sapwood.model.lora import refuse_large_rank, resolve_targets
from sapwood.serve.probe import Probe, choose_probes
from sapwood.template.families import choose_template
from sapwood.template.prepare import Prepared, prepare
from sapwood.template.render import Renderer
from sapwood.track.files import operation, staged_dir, to_json, verify_dir
from sapwood.train.loop import TrainData
from sapwood.types import BaseSpec, Conversation, RowId

DATA = "data"  # folder of a run that holds its own copy of what it learns from
TRAIN, EVAL, FACTS = "train.safetensors", "eval.safetensors", "study.json"


@dataclass(frozen=True, slots=True)
class Study:
    """spec and renderer; what is learnt and what is measured; the prompts answered on the way; and ``facts``:
    plain JSON with the proof, the data report and the fingerprints."""

    spec: BaseSpec
    renderer: Renderer
    data: TrainData
    probes: Sequence[Probe]
    facts: Mapping[str, Any]


def study_config(config: RunConfig) -> Study:
    """Read, render, label and prove. Raises DataError listing every row that can't be trusted."""
    spec = inspect_base(config.base)
    network = skeleton(spec)  # a wrong name or size costs nothing here, a run later
    refuse_large_rank(network, resolve_targets(network, config.lora.targets), config.lora.rank)
    renderer = make_renderer(spec, config)
    notes = ReadReport()
    learnt, held_out = read_data(config, notes)
    train = prepare_part(learnt, renderer, spec, config)
    measured = prepare_part(held_out, renderer, spec, config) if held_out else None
    data = TrainData(train.examples, measured.examples if measured is not None else ())
    probes = choose_probes(held_out, renderer, config.eval.samples) if held_out else []
    facts = {
        "base": spec.source,
        "base_fingerprint": spec.fingerprint,
        "template_fingerprint": renderer.fingerprint,
        "stop_ids": list(renderer.stop_ids),
        "data_sha256": hashlib.sha256(pack_examples([*data.train, *data.eval])).hexdigest(),
        "rows": {"learnt": len(learnt), "held_out": len(held_out), "notes": notes.notes()},
        "duplicates": _groups(duplicates(learnt)),
        "contradictions": _groups(contradictions(learnt)),
        "proof": train.proof.to_json(),
        "report": train.report.to_json(),
        "eval_report": measured.report.to_json() if measured is not None else None,
    }
    return Study(spec, renderer, data, probes, facts)


def make_renderer(spec: BaseSpec, config: RunConfig, clock: datetime | None = None) -> Renderer:
    """The one renderer of a run: training, sampling, chat and export all use it. ``clock`` is what a
    template that asks for the date is told; a resumed run tells it the first start's."""
    template = choose_template(spec.tokenizer, config.template.name)
    return Renderer(spec.tokenizer, template, spec.stop_ids, clock)


def read_data(
    config: RunConfig, notes: ReadReport | None = None
) -> tuple[list[Conversation], list[Conversation]]:
    """Conversations to learn from, and held-out ones."""
    conversations = list(read_conversations(config.data, report=notes))
    if isinstance(config.data.eval, str):
        return conversations, list(read_conversations(config.data, [config.data.eval], report=notes))
    if config.data.eval == 0:
        return conversations, []
    learnt, held_out = split_eval(conversations, config.data.eval, config.train.seed)
    return learnt, held_out


def prepare_part(
    conversations: Sequence[Conversation], renderer: Renderer, spec: BaseSpec, config: RunConfig
) -> Prepared:
    """Proven examples, none longer than a pack or than the model's context."""
    text = spec.hf_config.get_text_config()
    context = getattr(text, "max_position_embeddings", None) or config.pack.length
    return prepare(
        conversations,
        renderer,
        config.template,
        max_length=min(config.pack.length, context),
        vocab_rows=text.vocab_size,
    )


def save_study(folder: Path, study: Study) -> None:
    """The run's own copy of what it learns from, published whole before the first step."""
    with staged_dir(folder) as staging:
        for name, content in (
            (TRAIN, pack_examples(study.data.train)),
            (EVAL, pack_examples(study.data.eval)),
            (FACTS, to_json({**study.facts, "probes": [p.to_json() for p in study.probes]}).encode()),
        ):
            operation("write", staging / name)
            (staging / name).write_bytes(content)


def load_study(folder: Path, config: RunConfig) -> Study:
    """The study of an earlier start, from the run's own copy. Raises StorageError when the copy is not what
    the run wrote. Base and template are those of today: `fingerprints` tells whether they are the same."""
    verify_dir(folder)
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    spec = inspect_base(config.base)
    clock = facts["proof"]["clock"]
    renderer = make_renderer(spec, config, None if clock is None else datetime.fromisoformat(clock))
    data = TrainData(read_examples(folder / TRAIN), read_examples(folder / EVAL))
    probes = [Probe.from_json(value) for value in facts.pop("probes")]
    return Study(spec, renderer, data, probes, facts)


def fingerprints(study: Study) -> dict[str, str]:
    """What base, template and data are now; the same keys in ``study.facts`` say what they were."""
    return {
        "base_fingerprint": study.spec.fingerprint,
        "template_fingerprint": study.renderer.fingerprint,
        "data_sha256": hashlib.sha256(pack_examples([*study.data.train, *study.data.eval])).hexdigest(),
    }


def _groups(found: Sequence[Sequence[RowId]]) -> dict[str, Any]:
    """Groups of rows as a count and the first few, by name."""
    return {
        "rows": sum(len(group) - 1 for group in found),
        "groups": [[str(r) for r in g] for g in found[:20]],
    }
