"""Everything about a run that is known before a weight is loaded: the tokenizer, the proven examples, the
probes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sapwood.adapter.methods import refuse_misfits
from sapwood.base.cache import cache_dir
from sapwood.base.hubs import revision_of
from sapwood.base.inspect import inspect_base, skeleton
from sapwood.config.sections import RunConfig
from sapwood.data.files.sources import digest
from sapwood.data.held_out import held_out_files
from sapwood.errors import SapwoodError, StorageError
from sapwood.machine.device import device_for
from sapwood.prepare.cache import open_entry, pack_entry, pack_examples, unpack_examples
from sapwood.prepare.dataset import prepare_dataset, read
from sapwood.prepare.examples import Examples
from sapwood.prepare.probe import choose_probes
from sapwood.prepare.rows import Rules
from sapwood.prepare.split import split_eval
from sapwood.prepare.weights import weighted
from sapwood.run.files import operation, staged_dir, to_json, verify_dir, write_atomic
from sapwood.template.families import choose_template
from sapwood.template.render import Renderer
from sapwood.types import BaseSpec, Conversation, Example, Probe, RowId, TrainData

DATA = "data"  # folder of a run that holds its own copy of what it learns from
MAX_GROUPS = 1000  # of rows alike that are named; all are counted
MAX_ENTRIES = 16  # prepared datasets that the cache keeps
TRAIN, EVAL, FACTS = "train.safetensors", "eval.safetensors", "study.json"


@dataclass(frozen=True, slots=True)
class Study:
    """All that is known of a run before a weight is loaded.

    data: what is learnt, and what is only measured. probes: prompts that the model answers while it trains.
    facts: plain JSON with the proof, the data report and the fingerprints.
    """

    spec: BaseSpec
    renderer: Renderer
    data: TrainData
    probes: Sequence[Probe]
    facts: Mapping[str, Any]


def study_config(config: RunConfig) -> Study:
    """Read, render, label and prove. Raises DataError listing every row that can't be trusted."""
    device_for(config.base.device_map)  # a named GPU that isn't there is refused now, not after the weights
    spec = inspect_base(config.base)
    network = skeleton(spec)  # a wrong name or size is found here, before anything is computed
    refuse_misfits(network, config)
    renderer = make_renderer(spec, config)
    context = getattr(spec.text, "max_position_embeddings", None) or 0
    context = context - config.lora.lead if context > 0 else None  # -1 also means no limit
    found = prepared_study(
        config, renderer, vocab_rows=spec.rows, context=context, cache=cache_dir() / "prepared"
    )
    data = TrainData(found.train, found.eval)
    facts = {
        "base": spec.source,
        "base_revision": revision_of(spec.path),
        "base_fingerprint": spec.fingerprint,
        "template_fingerprint": renderer.fingerprint,
        "stop_ids": list(renderer.stop_ids),
        **found.facts,
    }
    return Study(spec, renderer, data, found.probes, facts)


@dataclass(frozen=True, slots=True)
class Material:
    """What the data are, proven: ``train`` with the weights of its files, ``eval``, the probes, the facts."""

    train: Sequence[Example]
    eval: Sequence[Example]
    probes: Sequence[Probe]
    facts: Mapping[str, Any]


def prepared_study(
    config: RunConfig, renderer: Renderer, *, vocab_rows: int, context: int | None, cache: Path | None = None
) -> Material:
    """Read, render, label and prove; or take what an earlier start proved of the same bytes.

    Args:
        vocab_rows: rows of the model's embedding. context: tokens that the model takes, None if unknown.
        cache: folder of entries, each named by a hash of all that decides its content: the bytes of the
            data, the tokenizer, the template, the options and the code. None prepares anew.

    An entry is verified when it is read. A damaged entry is made again. Two processes may write the same
    entry at once: each writes a file of its own and renames it, and both files have the same content.
    """
    length = min(config.pack.length, context or config.pack.length)
    key = _key(config, renderer, vocab_rows, length) if cache is not None else None
    if cache is not None and key is not None and (found := _find(cache / key)) is not None:
        return found
    material = _prepare(config, renderer, vocab_rows, length)
    # A file that changed while it was read would be stored under the hash of what it was.
    if cache is not None and key is not None and _key(config, renderer, vocab_rows, length) == key:
        _keep(cache / key, material)
    return material


def _prepare(config: RunConfig, renderer: Renderer, vocab_rows: int, length: int) -> Material:
    found = prepare_dataset(config, renderer, Rules(config.template, length, vocab_rows))
    train, measured = found.train, found.eval
    seen = weighted(train.examples, config.data.train, config.data.weights, config.train.seed)
    held = measured.examples if measured is not None else []
    facts = {
        "data_sha256": _digest(seen, held),
        "rows": {
            "learnt": train.report.rows,
            "held_out": measured.report.rows if measured is not None else 0,
            "notes": found.notes.notes(),
            "left_out": {
                "count": found.notes.num_dropped + found.notes.num_blank,
                "rows": [*found.notes.dropped, *found.notes.blank],
            },
        },
        "duplicates": _groups(found.hashes.duplicates(found.learnt)),
        "contradictions": _groups(found.hashes.contradictions(found.learnt)),
        "proof": train.proof.to_json(),
        "report": train.report.to_json(),
        "eval_report": measured.report.to_json() if measured is not None else None,
    }
    probes = choose_probes(found.asked, renderer, config.eval.samples) if found.asked else []
    return Material(seen, held, probes, facts)


def _digest(train: Sequence[Example], held: Sequence[Example]) -> str:
    both = [Examples.of(part).digest() for part in (train, held)]
    return hashlib.sha256(repr(both).encode()).hexdigest()


def _key(config: RunConfig, renderer: Renderer, vocab_rows: int, length: int) -> str | None:
    """Name of the entry; None if the data can't be read (reading them says why)."""
    options = config.model_dump(mode="json", include={"data", "template"})
    paths = [*config.data.train, *held_out_files(config.data)]
    try:
        data = digest(paths)
    except (OSError, SapwoodError):
        return None
    decides = [
        data, renderer.fingerprint, options, vocab_rows, length, config.train.seed, config.eval.samples,
        _code_version(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:40]


@functools.cache
def _code_version() -> str:
    """sha256 over our modules that make examples, and the versions of the libraries that they use."""
    total = hashlib.sha256()
    here = Path(__file__).parents[1]
    for path in [
        path for folder in ("data", "template", "prepare") for path in sorted((here / folder).rglob("*.py"))
    ]:
        total.update(path.read_bytes())
    libraries = ("tokenizers", "transformers", "jinja2", "regex", "numpy")
    total.update(repr([version(name) for name in libraries]).encode())
    return total.hexdigest()


def _find(path: Path) -> Material | None:
    try:
        with path.open("rb") as file:
            facts, (train, held) = open_entry(file)
        probes = [Probe.from_json(value) for value in facts.pop("probes")]
        os.utime(path)  # the entry with the oldest time is dropped first
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError):
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    return Material(train, held, probes, facts)


def _keep(path: Path, material: Material) -> None:
    """Store an entry, and drop the oldest. A cache that can't be written is no error."""
    probes = [probe.to_json() for probe in material.probes]
    with contextlib.suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, pack_entry({**material.facts, "probes": probes}, [material.train, material.eval]))
        entries = sorted(path.parent.glob("[0-9a-f]*"), key=lambda entry: entry.stat().st_mtime)
        for entry in entries[:-MAX_ENTRIES]:
            entry.unlink(missing_ok=True)


def make_renderer(spec: BaseSpec, config: RunConfig, clock: datetime | None = None) -> Renderer:
    """The one renderer of a run: training, sampling, chat and export all use it. ``clock``: the date for a
    template that asks for one. A resumed run gives the date of its first start."""
    template = choose_template(spec.tokenizer, config.template.name)
    means = config.template.meant, config.template.no_reasoning == "close"
    return Renderer(spec.tokenizer, template, spec.stop_ids, clock, *means, spec.words)


def read_data(config: RunConfig, renderer: Renderer) -> tuple[list[Conversation], list[Conversation]]:
    """Conversations to learn from, and held-out ones."""

    conversations = list(read(config, renderer, config.data.train))
    if held := held_out_files(config.data):
        return conversations, list(read(config, renderer, held))
    return split_eval(conversations, float(config.data.eval), config.train.seed)


def save_study(folder: Path, study: Study) -> None:
    """Save the run's own copy of its data, published whole before the first step."""
    with staged_dir(folder) as staging:
        for name, content in study_files(study).items():
            operation("write", staging / name)
            (staging / name).write_bytes(content)


def load_study(folder: Path, config: RunConfig) -> Study:
    """The study of an earlier start, from the run's own copy. Raises StorageError when the copy is not what
    the run wrote. Base and template are those of today: `fingerprints` tells whether they are the same."""
    verify_dir(folder)
    return study_of({name: (folder / name).read_bytes() for name in (TRAIN, EVAL, FACTS)}, config, folder)


def study_files(study: Study) -> dict[str, bytes]:
    """What a study consists of besides the base, by file name."""
    facts = {**study.facts, "probes": [probe.to_json() for probe in study.probes]}
    examples = {TRAIN: pack_examples(study.data.train), EVAL: pack_examples(study.data.eval)}
    return {**examples, FACTS: to_json(facts).encode()}


def study_of(files: Mapping[str, bytes], config: RunConfig, source: Path) -> Study:
    """The study that `study_files` took apart, on the base of today. ``source``: where the files are from."""
    facts = json.loads(files[FACTS])
    spec = inspect_base(config.base)
    clock = facts["proof"]["clock"]
    renderer = make_renderer(spec, config, None if clock is None else datetime.fromisoformat(clock))
    data = TrainData(unpack_examples(files[TRAIN], source), unpack_examples(files[EVAL], source))
    probes = [Probe.from_json(value) for value in facts.pop("probes")]
    return Study(spec, renderer, data, probes, facts)


def fingerprints(study: Study) -> dict[str, str]:
    """The fingerprints of today's base, template and data. The same keys in ``study.facts`` hold those of the
    start."""
    return {
        "base_fingerprint": study.spec.fingerprint,
        "template_fingerprint": study.renderer.fingerprint,
        "data_sha256": _digest(study.data.train, study.data.eval),
    }


def _groups(found: Sequence[Sequence[RowId]]) -> dict[str, Any]:
    """Groups of rows as a count, and by name."""
    return {
        "rows": sum(len(group) - 1 for group in found),
        "groups": [[str(r) for r in g] for g in found[:MAX_GROUPS]],
    }
