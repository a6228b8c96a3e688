"""A tiny base with several adapters, served by the real thing in a thread of the test's process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.files import write_adapter
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.endpoint.library import Library, Limits
from sapwood.endpoint.server import Options, serve
from sapwood.template.render import Renderer

LORA = LoraConfig(rank=4, alpha=8)


def make_adapter(
    base: Path,
    folder: Path,
    seed: int,
    lora: LoraConfig = LORA,
    *,
    strength: float = 0.3,
    system: str | None = None,
) -> Path:
    """An adapter as a finished run leaves it, which says other things than its base and its neighbours."""
    source = BaseConfig(model=str(base), storage="fp32")
    spec = inspect_base(source)
    model = attach_lora(load_base(spec, source), lora)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.parameters.items():
            random = torch.randn(parameter.shape, generator=generator) * strength
            if "lora_B" in name:
                parameter.copy_(random)
            elif "lora_A" not in name:  # DoRA's magnitudes, soft prompts
                parameter.mul_(1 + random)
    renderer = Renderer(spec.tokenizer, None, spec.stop_ids)
    folder.mkdir(parents=True)
    write_adapter(model, folder)
    facts = {
        "schema": 1, "base": str(base), "base_fingerprint": spec.fingerprint, "storage": "fp32",
        "template_name": "auto", "template_fingerprint": renderer.fingerprint,
        "stop_ids": list(renderer.stop_ids), "system": system, "lora": lora.model_dump(mode="json"),
        "final_loss": 1.5, "proof": {}, "data_sha256": f"{seed:064x}",
    }  # fmt: skip
    (folder / "sapwood.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


@dataclass
class Running:
    """A served endpoint. ``url``: without ``/v1``."""

    url: str
    library: Library
    loop: asyncio.AbstractEventLoop

    def run(self, work: Any, seconds: float = 60) -> Any:
        """A coroutine in the server's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)


@contextmanager
def running(*targets: Path | str, slots: int = 4, context: int = 512, **more: Any) -> Generator[Running]:
    limits = replace(Limits(slots, context), **more.pop("limits", {}))
    options = Options([str(target) for target in targets], port=0, limits=limits, **more)
    told: dict[str, Any] = {}
    known = threading.Event()

    async def main() -> None:
        told["ended"] = asyncio.Event()
        told["loop"] = asyncio.get_running_loop()

        def ready(library: Library, url: str) -> None:
            told.update(library=library, url=url)
            known.set()

        await serve(options, ready, told["ended"])

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            told["error"] = error
        finally:
            known.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert known.wait(120)
        if "error" in told:
            raise told["error"]
        yield Running(told["url"], told["library"], told["loop"])
    finally:
        if "loop" in told and thread.is_alive():
            told["loop"].call_soon_threadsafe(told["ended"].set)
        thread.join(30)
        assert not thread.is_alive()
