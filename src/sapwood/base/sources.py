"""Where a base model comes from: a built-in, a hub, a folder, or a GGUF file.

`resolve` turns what a person wrote into a path on this disk and checks that it can be a base model.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapwood.base.builtin import BUILTINS, Builtin, pull
from sapwood.base.folder import check_layout, read_folder, read_json
from sapwood.base.hubs import HUBS, fetch
from sapwood.base.packed.stored import num_elements
from sapwood.errors import ModelError
from sapwood.gguf.file import GgufFile, is_gguf, read_gguf

BUILTIN = "builtin:"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A built-in model: what `sapwood model list` shows.

    Attributes:
        name: what to write for ``base.model``.
        size: bytes of the model's file.
        path: the file in the cache, or None until it is pulled.
        terms: address of terms that a pull has to accept; empty if the licence is open.
    """

    name: str
    title: str
    size: int
    licence: str
    terms: str
    path: Path | None

    @property
    def pulled(self) -> bool:
        return self.path is not None


def resolve(model: str, *, accept_license: bool = False, offline: bool = False) -> Path:
    """The folder or GGUF file that ``model`` names, fetched first if it has to be.

    Args:
        model: ``builtin:NAME``, ``hf:ORG/NAME[@revision]``, ``ms:ORG/NAME[@revision]``, a folder in Hugging
            Face layout, or a GGUF file.
        accept_license: agree to the terms that some built-in models come under.
        offline: take what the hubs' caches hold, and ask nobody.

    Raises:
        ModelError: nothing there (with the nearest names), no network, damaged, or not a base model.
    """
    if model.startswith(BUILTIN):
        return pull(_builtin(model), accept_license=accept_license)
    if model.startswith(tuple(HUBS)):
        path = fetch(model, offline=offline)
        check_layout(path)
        return path
    refuse_unknown_source(model)
    return _from_disk(model)


def refuse_unknown_source(model: str) -> None:
    """Raises ModelError for a built-in that doesn't exist, and for a source of no known kind. Asks no hub."""
    if model.startswith(BUILTIN):
        _builtin(model)
    scheme = re.match(r"[a-zA-Z][\w+.-]+:", model)
    if scheme and not model.startswith((BUILTIN, *HUBS)) and not Path(model).exists():
        known = f"known: {BUILTIN}NAME, hf:ORG/NAME, ms:ORG/NAME, a folder, or a .gguf file"
        raise ModelError(f"unknown source {scheme.group()!r}", f"base.model {model}", mend=known)


def hub_id(model: str) -> str:
    """``ORG/NAME`` of a model that is on a hub, a built-in's too: what other libraries look up. A path of
    this disk stays as it is."""
    kind, _, name = model.partition(":")
    if model.startswith(BUILTIN) and name in BUILTINS:
        return BUILTINS[name].hub
    return name.partition("@")[0] if f"{kind}:" in HUBS and name else model


def named_on_hub(name: str) -> str:
    """The inverse of `hub_id`: another library's name of a model, as ``base.model`` has it. If the model is a
    built-in that is on this disk, the built-in's name. A path, and a text that is no name on a hub, stay as
    they are."""
    if Path(name).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return name
    own = (known.name for known in BUILTINS.values() if known.hub == name and known.pulled)
    return next((f"{BUILTIN}{known}" for known in own), f"hf:{name}")


def list_models() -> list[ModelInfo]:
    """The built-in models, and whether they are pulled."""
    return [
        ModelInfo(
            name=f"{BUILTIN}{known.name}",
            title=known.title,
            size=known.size,
            licence=known.licence,
            terms=known.terms,
            path=known.path if known.pulled else None,
        )
        for known in BUILTINS.values()
    ]


def model_info(model: str) -> dict[str, Any]:
    """Facts about a model on this disk, as plain data; a built-in that isn't pulled says only so much."""
    facts: dict[str, Any] = {"model": model}
    if model.startswith(BUILTIN):
        known = _builtin(model)
        facts |= {
            "title": known.title,
            "licence": known.licence,
            "sha256": known.sha256,
            "pulled": known.pulled,
        }
        if not known.pulled:
            return facts | {"bytes": known.size}
    path = resolve(model, accept_license=True)  # a built-in was pulled before: nothing is accepted here
    return (
        facts | {"path": str(path)} | (_folder_facts(path) if path.is_dir() else _gguf_facts(read_gguf(path)))
    )


def _folder_facts(path: Path) -> dict[str, Any]:
    folder = read_folder(path)
    config = folder.config
    template = (path / "chat_template.jinja").is_file()
    if not template and (path / "tokenizer_config.json").is_file():
        template = bool(read_json(path / "tokenizer_config.json").get("chat_template"))
    return {
        "architecture": config.get("model_type"),
        "parameters": num_elements(folder),
        "layers": config.get("num_hidden_layers"),
        "hidden": config.get("hidden_size"),
        "vocabulary": config.get("vocab_size"),
        "context": config.get("max_position_embeddings"),
        "stored": str(config.get("dtype") or config.get("torch_dtype") or "unknown"),
        "chat_template": template,
        "bytes": sum(shard.stat().st_size for shard in folder.shards),
    }


def _gguf_facts(file: GgufFile) -> dict[str, Any]:
    def key(name: str) -> Any:
        value = file.metadata.get(f"{file.architecture}.{name}")
        return value if isinstance(value, int) else None

    types = [tensor.type for tensor in file.tensors.values()]
    embedding = file.tensors.get("token_embd.weight")
    return {
        "architecture": file.architecture,
        "parameters": file.num_elements,
        "layers": key("block_count"),
        "hidden": key("embedding_length"),
        "vocabulary": embedding.shape[0] if embedding is not None else None,
        "context": key("context_length"),
        "stored": {kind: types.count(kind) for kind in sorted(set(types))},
        "chat_template": bool(file.metadata.get("tokenizer.chat_template")),
        "bytes": file.path.stat().st_size,
    }


def _builtin(model: str) -> Builtin:
    name = model.removeprefix(BUILTIN)
    if name in BUILTINS:
        return BUILTINS[name]
    near = difflib.get_close_matches(name, BUILTINS, n=1)
    known = ", ".join(f"{BUILTIN}{known}" for known in BUILTINS)
    mend = f"did you mean {BUILTIN}{near[0]}?" if near else f"known: {known}"
    raise ModelError(f"no built-in model {name!r}", "base.model", mend=mend)


def _from_disk(model: str) -> Path:
    path = Path(model).expanduser()
    if path.is_dir():
        check_layout(path)
        return path
    if path.is_file():
        if not is_gguf(path):
            mend = "name a folder in Hugging Face layout, or a GGUF file"
            raise ModelError("not a model", str(path), "the file isn't GGUF", mend)
        return path
    near = _near(path, model)
    mend = (
        f"did you mean {' or '.join(near)}?"
        if near
        else "name a folder, a .gguf file, builtin:NAME, hf:ORG/NAME or ms:ORG/NAME"
    )
    raise ModelError("model not found", f"base.model {model}", "no such folder or file", mend)


def _near(path: Path, model: str) -> list[str]:
    """Names that a person may have meant: neighbours on disk, built-ins, and the hub for ORG/NAME."""
    neighbours: dict[str, str] = {}
    with contextlib.suppress(OSError):
        neighbours = {entry.name: str(entry) for entry in path.parent.iterdir()}
    near = [neighbours[name] for name in difflib.get_close_matches(path.name, neighbours, n=2)]
    near += [f"{BUILTIN}{name}" for name in difflib.get_close_matches(model, BUILTINS, n=1)]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not path.parent.exists():
        near.append(f"hf:{model}")
    return near
