"""``sapwood.json``: what must be true of the base and the template that an adapter is put on. Its schema is
here, and nothing else reads or writes the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sapwood.base.folder import read_json
from sapwood.config.sections import BaseConfig
from sapwood.errors import ModelError, Problem, brief
from sapwood.run.files import MANIFEST, operation, to_json, verify_dir
from sapwood.types import Adapter

ADAPTER_DIR, FACTS, CARD = "adapter", "sapwood.json", "README.md"
SETTINGS = "adapter_config.json"  # as PEFT and mlx-lm call theirs
SCHEMA = 1
HOW_HELD = ("storage", "compute_dtype", "double_quant")  # keys of the config's `base` that are kept
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_OBJECT: Any = (dict, type(None))
OPTIONAL: tuple[tuple[str, str, Any], ...] = (
    ("system", "text", str | None),
    ("base_path", "text", str | None),
    ("lora", "object", _OBJECT),
    ("proof", "object", _OBJECT),
    ("combined", "object", _OBJECT),
)
READ = (".safetensors", ".json", ".jinja", ".model", ".txt")  # endings of files that loading may read


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What `sapwood.json` says.

    Attributes:
        base: where the base lay, and how it was held.
        base_path: the base's absolute path, if it was named by a path.
        base_fingerprint, template_fingerprint: None only of an adapter that says nothing (`unproven`).
        system: the system prompt that it was trained with.
        lora: the config's section, with the names of the layers that were adapted.
        first_loss, final_loss: held-out, nats; None if nothing was held out.
        proof, data_sha256: of what was learnt.
        combined: what an adapter that was made of others is the sum of.
    """

    base: BaseConfig
    base_fingerprint: str | None
    template_name: str
    template_fingerprint: str | None
    base_path: str | None = None
    stop_ids: tuple[int, ...] = ()
    system: str | None = None
    lora: Mapping[str, Any] = field(default_factory=dict[str, Any])
    first_loss: float | None = None
    final_loss: float | None = None
    data_sha256: str = ""
    proof: Mapping[str, Any] = field(default_factory=dict[str, Any])
    combined: Mapping[str, Any] | None = None

    @property
    def meant(self) -> tuple[str, ...]:
        """Control tokens that an answer may spell and then means (`template.meant`)."""
        return tuple(self.proof.get("meant", ()))

    @property
    def clock(self) -> datetime | None:
        """The time that a template which asks for the date was told."""
        told = self.proof.get("clock")
        return None if told is None else datetime.fromisoformat(told)

    def to_json(self) -> dict[str, Any]:
        """As `sapwood.json` holds it."""
        tree = {
            "schema": SCHEMA,
            "base": self.base.model,
            **{key: getattr(self.base, key) for key in HOW_HELD},
            "base_fingerprint": self.base_fingerprint,
            "template_name": self.template_name,
            "template_fingerprint": self.template_fingerprint,
            "stop_ids": list(self.stop_ids),
            "system": self.system,
            "lora": dict(self.lora),
            "first_loss": self.first_loss,
            "final_loss": self.final_loss,
            "data_sha256": self.data_sha256,
            "proof": dict(self.proof),
        }
        some = {"base_path": self.base_path, "combined": self.combined}
        return tree | {key: value for key, value in some.items() if value is not None}

    def adapter(self, folder: Path) -> Adapter:
        """The adapter in ``folder``, which these are the facts of."""
        return Adapter(
            path=folder,
            base=self.base.model,
            base_fingerprint=self.base_fingerprint or "",
            template_fingerprint=self.template_fingerprint or "",
            rank=int(self.lora.get("rank", 0)),
            targets=tuple(self.lora.get("targets", ())),
            final_loss=self.final_loss,
            facts=self.to_json(),
        )


def write_facts(facts: AdapterFacts, folder: Path) -> None:
    operation("write", folder / FACTS)
    (folder / FACTS).write_text(to_json(facts.to_json()), encoding="utf-8")


def read_facts(folder: Path) -> AdapterFacts:
    """Raises ModelError naming each key that is missing or not valid."""
    path = folder / FACTS
    tree = read_json(path)
    if tree.get("schema") != SCHEMA:
        why = f"its format is {tree.get('schema') or 'not named'}, this sapwood reads {SCHEMA}"
        raise ModelError(f"another version of sapwood wrote {FACTS}", str(path), why, "update sapwood")
    base = {"model": tree.get("base"), **{key: tree[key] for key in HOW_HELD if key in tree}}
    return facts_of(tree, base, tree.get("template_name"), path)


def facts_of(tree: Mapping[str, Any], base: Mapping[str, Any], template: Any, source: Path) -> AdapterFacts:
    """``source``: the file that ``tree`` came from; ``base``: keys of the config's section. Raises ModelError
    naming each key that is missing or of another type."""
    texts = {
        "base": base.get("model"),
        "storage": base.get("storage"),
        "template_name": template,
        "base_fingerprint": tree.get("base_fingerprint"),
        "template_fingerprint": tree.get("template_fingerprint"),
    }
    wrong = [Problem(f"{key} is missing", str(source)) for key, value in texts.items() if not _is_text(value)]
    wrong += [
        Problem(f"{key} is no {kind}", str(source))
        for key, kind, types in OPTIONAL
        if not isinstance(tree.get(key), types)
    ]
    if wrong:
        raise ModelError(wrong)
    optional = ("base_path", "system", "first_loss", "final_loss", "data_sha256", "combined")
    try:
        facts = AdapterFacts(
            BaseConfig(**base),
            texts["base_fingerprint"],
            template,
            texts["template_fingerprint"],
            stop_ids=tuple(tree.get("stop_ids") or ()),
            lora=tree.get("lora") or {},
            proof=tree.get("proof") or {},
            **{key: tree[key] for key in optional if key in tree},
        )
        _ = facts.clock, facts.adapter(source.parent)
    except (ValueError, TypeError) as error:
        why = brief(error, 300)
        raise ModelError("adapter facts are not valid", str(source), why) from None
    return facts


def unproven(base: BaseConfig) -> AdapterFacts:
    """Of an adapter that another program made: nothing says what base and template it was trained on."""
    return AdapterFacts(base, None, "auto", None)


def base_place(facts: AdapterFacts, adapter: Path) -> str:
    """Where the base can lie that was named, perhaps from another folder or on another machine. Raises
    ModelError: it isn't there."""
    named = facts.base.model
    if ":" in named or Path(named).exists():
        return named
    if facts.base_path is not None and Path(facts.base_path).exists():
        return facts.base_path
    if facts.base_path is None and HUB_ID.fullmatch(named):  # as `sapwood push` names it
        return f"hf:{named}"
    why = f"it was {facts.base_path or named} when the adapter was trained"
    raise ModelError("the adapter's base isn't there", str(adapter), why, "say where it lies: --base FOLDER")


def verify_adapter(folder: Path, *, sealed: bool = True) -> None:
    """Hold an adapter's folder against its manifest: weights, settings and facts. The card, and files that no
    program reads, may be what their owner made of them.

    ``sealed``: there must be a manifest. A folder from a hub has none. Raises StorageError.
    """
    if sealed or (folder / MANIFEST).is_file():
        whole = (folder / "config.json").is_file()  # a model: a library looks for files by many names
        verify_dir(
            folder, minds=lambda name, known: name != CARD and (known or (whole and name.endswith(READ)))
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
