"""The process that llama.cpp runs in: ``python -m sapwood.engine.child``.

llama.cpp ends its process if it can't go on, so it gets a process of its own. This process reads its settings
as one line of JSON from stdin, and writes its address to stdout. It listens on a loopback port, and asks for
a key that only its parent knows. It ends when stdin ends: the parent has ended, or has closed stdin on
purpose.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

READY = "sapwood-engine "  # what stands before the address on stdout


def serve(llama: Any, settings: dict[str, Any]) -> Any:
    """llama.cpp's own server, started. llama: the module. ``settings``: see `process.Setup`."""
    wanted = llama.CommonParams()
    wanted.model.path = settings["model"]
    wanted.n_ctx = settings["context"] * settings["slots"]
    wanted.n_parallel = settings["slots"]
    wanted.n_gpu_layers = 0
    wanted.cpuparams.n_threads = settings["threads"]
    wanted.n_threads_http = settings["slots"] + 4  # one for each stream, and some for short questions
    # the quick attention sums in half precision: one answer in ten differed from torch's
    wanted.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    wanted.fit_params = False
    wanted.warmup = False
    wanted.swa_full = True  # keep what lies before a sliding window, so that beginnings are shared
    wanted.use_jinja = True
    wanted.cache_ram_mib = 0  # keyed by tokens alone: what one adapter computed would serve another
    wanted.kv_unified = False
    wanted.verbosity = 0
    wanted.port = 0
    wanted.ui = False
    wanted.endpoint_metrics = True  # how many answers are done
    wanted.endpoint_slots = False  # it tells everybody's prompts
    wanted.api_keys = [settings["key"]]
    wanted.sse_ping_interval = -1
    wanted.lora_adapters = [llama.CommonAdapterLoraInfo(path, 0.0) for path in settings["adapters"]]
    return llama.Server(wanted)


def main() -> None:
    llama: Any = importlib.import_module("xllamacpp")  # a compiled module: it says no types
    told = sys.stdin.readline()
    if not told:
        return  # nobody needs it
    code = 0
    try:
        server = serve(llama, json.loads(told))
        print(READY + server.listening_address.removeprefix("http://"), flush=True)
        sys.stdin.read()  # until whoever started this process lets go
    except BaseException:  # a file that is refused; or nobody hears the address any more
        traceback.print_exc()
        code = 1
    os._exit(code)  # the server's own threads need not be waited for, and would not end


if __name__ == "__main__":
    main()
