"""An adapter on Hugging Face. All files are made first, to the byte, and then shown or sent."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapwood.adapter.facts import CARD, FACTS
from sapwood.adapter.folder import load_adapter
from sapwood.base.sources import hub_id
from sapwood.errors import ConfigError, StorageError, brief
from sapwood.machine.doing import doing
from sapwood.run.files import FileEntry, to_json
from sapwood.types import Adapter

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True, slots=True)
class Parcel:
    """What goes to ``repo``: content by file name. Nothing in it names a path of this machine."""

    repo: str
    files: Mapping[str, bytes]

    @property
    def entries(self) -> list[FileEntry]:
        return [
            FileEntry(name, len(content), hashlib.sha256(content).hexdigest())
            for name, content in sorted(self.files.items())
        ]

    @property
    def card(self) -> str:
        return self.files[CARD].decode()


def pack(folder: Path, repo: str, study: Mapping[str, Any], checks: Mapping[str, Any]) -> Parcel:
    """The adapter's files as another machine needs them.

    Args:
        folder: a finished adapter, verified here.
        study: facts of its data (`study.json` of the run), empty if there is no run.
        checks: results of its exports, by kind.

    Raises:
        ConfigError: ``repo`` is no name on the hub. StorageError, ModelError: the adapter is damaged.
    """
    if not NAME.fullmatch(repo):
        raise ConfigError(f"{repo!r} is no repository's name", "REPO", mend="write ORG/NAME")
    adapter = load_adapter(folder, sealed=False)
    base = hub_name(adapter.base)
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
    facts = {**adapter.facts, "base": base}
    facts.pop("base_path", None)
    return Parcel(
        repo,
        {
            WEIGHTS: (folder / WEIGHTS).read_bytes(),
            SETTINGS: to_json(settings).encode(),
            FACTS: to_json(facts).encode(),
            CARD: card(adapter, base, repo, study, checks).encode(),
        },
    )


def hub_name(base: str) -> str:
    """A base as others can find it: its name on a hub, or the last part of a path of this machine."""
    found = hub_id(base)
    return found if found != base else Path(base).name


def send(parcel: Parcel, private: bool) -> str:
    """Upload in one commit; returns the repository's address.

    The token comes from HF_TOKEN only. Raises ConfigError without one, StorageError if the hub refuses.
    """
    token = os.environ.get("HF_TOKEN")
    if not token:
        why = "a token is read from the environment only, never from a file or the command line"
        raise ConfigError(
            "no token for the hub", "HF_TOKEN", why, "export HF_TOKEN=…, or look with --dry-run"
        )
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    add = [CommitOperationAdd(name, content) for name, content in parcel.files.items()]
    try:
        with doing(f"sending to {parcel.repo}"):
            address = api.create_repo(parcel.repo, private=private, exist_ok=True)
            api.create_commit(parcel.repo, add, commit_message="An adapter trained with sapwood")
    except (HfHubHTTPError, OSError, ValueError) as error:
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise StorageError(
            "the hub refused the upload", parcel.repo, brief(why.replace(token, "…"), 300)
        ) from None
    return str(address)


# --- the card ---------------------------------------------------------------------------------------------


def card(adapter: Adapter, base: str, repo: str, study: Mapping[str, Any], checks: Mapping[str, Any]) -> str:
    """README.md: what it was trained on, what was proven before, and how it was measured."""
    facts = adapter.facts
    lora = facts["lora"]
    named = f"base_model: {base}\n" if NAME.fullmatch(base) else ""
    lines = [
        f"---\n{named}library_name: peft\ntags:\n- lora\n- sapwood\n---",
        f"# {repo.rpartition('/')[2]}",
        f"A LoRA adapter for {base}: {lora['method']}, rank {lora['rank']}, alpha {lora['alpha']:g}, on "
        f"{', '.join(lora['targets'])}. The base was held as {facts['storage']}.",
        "## Figures",
        *_figures(facts, checks),
        "## Data",
        *_data(facts, study),
        "## Proof",
        *_proof(facts["proof"]),
        "## Use",
        "```python\nfrom peft import AutoPeftModelForCausalLM\n\n"
        f'model = AutoPeftModelForCausalLM.from_pretrained("{repo}")\n```',
        *_asking(facts),
    ]
    return "\n\n".join(lines) + "\n"


def _figures(facts: Mapping[str, Any], checks: Mapping[str, Any]) -> list[str]:
    rows = ["| figure | value |", "|---|---|"]
    if facts.get("final_loss") is not None:
        rows.append(f"| held-out loss (nat a token) | {facts['first_loss']:.4f} before, "
                    f"{facts['final_loss']:.4f} after |")  # fmt: skip
    for kind, check in sorted(checks.items()):
        if "format_difference" not in check:  # of an older version, which measured otherwise
            continue
        rows.append(
            f"| exported to {kind}, mean difference of log p | {check['difference']:.4f} nat; "
            f"the format alone {check['format_difference']:.4f} |"
        )
    return ["\n".join(rows)] if len(rows) > 2 else ["Nothing was held out, so nothing was measured."]


def _data(facts: Mapping[str, Any], study: Mapping[str, Any]) -> list[str]:
    proof = facts["proof"]
    told = [f"- sha256 of the prepared examples: `{facts['data_sha256']}`"]
    if "targets" in proof:
        told.append(f"- {proof['tokens']:,} tokens, of which {proof['targets']:,} are learnt")
    if rows := study.get("rows"):
        told.append(f"- {rows['learnt']:,} rows learnt, {rows['held_out']:,} held out")
        told.append(f"- {study['duplicates']['rows']:,} rows repeat another")
        told.append(f"- {study['contradictions']['rows']:,} rows answer another's question otherwise")
    return ["\n".join(told)]


def _proof(proof: Mapping[str, Any]) -> list[str]:
    if "codes" not in proof:
        return ["No proof was recorded."]
    accepted = f" Accepted as meant: {', '.join(proof['accepted'])}." if proof.get("accepted") else ""
    return [
        f"Before the first step {len(proof['codes'])} checks passed on {proof['turns']:,} trained turns: the "
        f"tokens learnt are those that inference sends, and each answer ends on `{proof['stop_text']}`."
        f"{accepted}"
    ]


def _asking(facts: Mapping[str, Any]) -> list[str]:
    system = f"It was trained with the system prompt {facts['system']!r}. " if facts.get("system") else ""
    return [
        f"{system}Put it on another base or behind another chat template and it is not what was trained: "
        f"base fingerprint `{facts['base_fingerprint'][:16]}`, template fingerprint "
        f"`{facts['template_fingerprint'][:16]}`."
    ]


def read_checks(exports: Path, name: str) -> dict[str, Any]:
    """Results of the exports below a run, by kind; those that can't be read are left out."""
    found: dict[str, Any] = {}
    for file in sorted(exports.glob(f"*/{name}")):
        try:
            found[file.parent.name] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return found
