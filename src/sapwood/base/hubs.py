"""Models from a hub: Hugging Face (``hf:``) and ModelScope (``ms:``), through their own clients.

Both clients resume a download that was cut, compare each file with the sha256 that the hub names, and keep a
cache that `resolve` finds again without a network. sapwood tells them which files to fetch, and the token:
that of the environment, or none. A login that they keep on disk is never used.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from sapwood.errors import ModelError, brief
from sapwood.machine.bars import told_bars
from sapwood.machine.doing import bytes_of, doing
from sapwood.machine.extras import install

# What a base model needs, and nothing that could run: pickles and Python files are never fetched.
WANTED = (
    "*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
UNWANTED = ("*/*", "consolidated*", "adapter_*", "*.bin", "*.pt", "*.py")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN")


@dataclass(frozen=True, slots=True)
class Hub:
    """fetch: (id, revision or None, offline) -> the snapshot's folder. explain: what an exception of it means
    for (model as written, offline). endpoint: the environment variable that sets it."""

    fetch: Callable[[str, str | None, bool], Path]
    explain: Callable[[str, Exception, bool], ModelError]
    endpoint: str


def fetch(model: str, *, offline: bool = False) -> Path:
    """The snapshot that ``model`` (``hf:ORG/NAME``, ``ms:ORG/NAME@REVISION``) names, in its hub's cache.

    Raises ModelError: no such model or revision, no leave to read it, no network, damaged on the way.
    """
    scheme, _, rest = model.partition(":")
    hub = HUBS[f"{scheme}:"]
    name, _, revision = rest.partition("@")
    named = re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", name)
    dated = not revision or re.fullmatch(r"[\w.-]+(/[\w.-]+)*", revision)
    if not named or not dated or {".", ".."} & {*name.split("/"), *revision.split("/")}:
        mend = f"write {scheme}:ORG/NAME or {scheme}:ORG/NAME@REVISION"
        raise ModelError(f"not a model id: {model!r}", "base.model", mend=mend)
    offline = offline or _offline()
    try:
        return hub.fetch(name, revision or None, offline)
    except ModelError:
        raise
    except Exception as error:  # a client raises its own, its HTTP library's and the system's errors
        raise hub.explain(model, error, offline) from None


def revision_of(path: Path) -> str | None:
    """The commit that a snapshot's folder is of, if its name says so: both caches name it by what was
    fetched, the Hugging Face one always by its commit."""
    return path.name if path.parent.name == "snapshots" else None


def _offline() -> bool:
    """Hugging Face's own variable, obeyed for both hubs."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _said(error: Exception) -> str:
    """The error's text in one line, without the secrets of the environment."""
    text = str(error)
    for name in TOKENS:
        if secret := os.environ.get(name):
            text = text.replace(secret, f"${name}")
    return brief(text)


def _full_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def _unreachable(hub: Hub, where: str, error: Exception, offline: bool) -> ModelError:
    local = "or set base.model to a folder that holds it"
    if offline:
        why = "HF_HUB_OFFLINE is set" if _offline() else "base.offline is set"
        return ModelError("the model isn't in the local cache", where, why, f"unset it, {local}")
    mend = f"check the network, set {hub.endpoint} to a mirror, {local}; builtin:smollm2 needs no hub"
    return ModelError("the model couldn't be downloaded", where, _said(error), mend)


# --- Hugging Face -----------------------------------------------------------------------------------------


def _from_hugging_face(name: str, revision: str | None, offline: bool) -> Path:
    from huggingface_hub import snapshot_download

    with told_bars(f"fetching {name}", "B") as bar:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
            token=os.environ.get("HF_TOKEN") or False,
            local_files_only=offline,
            tqdm_class=bar,
        )
    return Path(folder)


def _explain_hugging_face(model: str, error: Exception, offline: bool) -> ModelError:
    from huggingface_hub import constants, errors

    where = f"{model} from {constants.ENDPOINT}"
    if isinstance(error, errors.GatedRepoError):
        mend = "accept its terms on its page and set HF_TOKEN"
        return ModelError("the model is gated", where, _said(error), mend)
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError("no such revision", where, mend="leave @REVISION out for the newest one")
    if isinstance(error, errors.RepositoryNotFoundError):
        mend = "check the name; for a private one set HF_TOKEN"
        return ModelError("no such model on the hub", where, mend=mend)
    if _full_disk(error):
        mend = "free some, or set HF_HOME to a larger disk"
        return ModelError("not enough disk space", where, _said(error), mend)
    return _unreachable(HUBS["hf:"], where, error, offline)


# --- ModelScope -------------------------------------------------------------------------------------------


def _from_modelscope(name: str, revision: str | None, offline: bool) -> Path:
    try:
        from modelscope_hub import HubApi
    except ImportError:
        mend = install("modelscope")
        raise ModelError("ms: needs ModelScope's client", "base.model", "it isn't installed", mend) from None
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)  # sapwood's errors say the same
    api = HubApi(token=os.environ.get("MODELSCOPE_API_TOKEN", ""))  # "" keeps it from a stored login
    with redirect_stderr(StringIO()), doing(f"fetching {name}") as far:  # stderr: its progress bars
        return Path(
            api.download_repo(
                name,
                "model",
                revision=revision,
                allow_patterns=list(WANTED),
                ignore_patterns=list(UNWANTED),
                local_files_only=offline,
                progress_callbacks=[_tally(far)],
            )
        )


def _tally(far: Callable[[str], None]) -> type[Any]:
    """A class of ModelScope's callbacks. ModelScope makes one for each file, and together they tell the
    progress."""
    from modelscope_hub import ProgressCallback

    lock, done, whole = threading.Lock(), 0, 0

    class Tally(ProgressCallback):
        def __init__(self, filename: str, file_size: int) -> None:
            nonlocal whole
            super().__init__(filename, file_size)
            with lock:
                whole += file_size

        def update(self, size: int) -> None:
            nonlocal done
            with lock:
                done += size
            far(bytes_of(done, whole))

    return Tally


def _explain_modelscope(model: str, error: Exception, offline: bool) -> ModelError:
    from modelscope_hub import errors
    from modelscope_hub.config import HubConfig

    where = f"{model} from {HubConfig(token='').endpoint}"
    failed = getattr(error, "failed_files", None)  # of several files; the error of the first is told
    cause = next(iter(failed.values())) if failed else error
    if isinstance(cause, errors.NotExistError):
        mend = "check the name and the revision; for a private one set MODELSCOPE_API_TOKEN"
        return ModelError("no such model or revision on the hub", where, _said(cause), mend)
    if isinstance(cause, errors.AuthenticationError | errors.PermissionDeniedError):
        mend = "ask for access on its page and set MODELSCOPE_API_TOKEN"
        return ModelError("the hub doesn't let you read the model", where, _said(cause), mend)
    if isinstance(cause, errors.FileIntegrityError):
        mend = "nothing of the file was kept; try again, or another mirror (MODELSCOPE_ENDPOINT)"
        return ModelError("the download is not what the hub names", where, _said(cause), mend)
    if _full_disk(cause):
        mend = "free some, or set MODELSCOPE_CACHE to a larger disk"
        return ModelError("not enough disk space", where, _said(cause), mend)
    return _unreachable(HUBS["ms:"], where, cause, offline)


HUBS = {
    "hf:": Hub(_from_hugging_face, _explain_hugging_face, "HF_ENDPOINT"),
    "ms:": Hub(_from_modelscope, _explain_modelscope, "MODELSCOPE_ENDPOINT"),
}
