"""Questions to a llama.cpp of one's own, one after another: what an export's check asks."""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from sapwood.engine.process import Process, Setup, scales
from sapwood.errors import ExportError

CERTAIN = 1e4  # added to a logit: no other token can be chosen


class Asked:
    """A running llama.cpp, with the first of its adapters on its base if it has any."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._lora = scales(process.setup.adapters, next(iter(process.setup.adapters), None))
        self._plain = self.tokenize("a")[-1]

    def tokenize(self, text: str, add_special: bool = False) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return self._post("/tokenize", body)["tokens"]

    def prompt(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """What its chat endpoint sends: the file's template, then the tokenizer with all that it adds."""
        text = self._post("/apply-template", {"messages": list(messages)})["prompt"]
        return self.tokenize(text, add_special=True)

    def next(self, ids: Sequence[int], top: int) -> list[tuple[int, float]]:
        """The likeliest tokens after ``ids``, each with its log probability, before sampling.

        What is then chosen must be a whole visible character: after a stop token, or a part of a character,
        llama.cpp tells no probabilities.
        """
        done = self._complete(ids, n_probs=top, logit_bias=[[self._plain, CERTAIN]])
        return [(t["id"], t["logprob"]) for t in done["completion_probabilities"][0]["top_logprobs"]]

    def stops(self, ids: Sequence[int], id: int) -> bool:
        """Does generation end when the model chooses ``id``?"""
        return self._complete(ids, logit_bias=[[id, CERTAIN]])["stop_type"] == "eos"

    def _complete(self, ids: Sequence[int], **more: Any) -> Any:
        one = {"n_predict": 1, "temperature": 0, "cache_prompt": True, "lora": self._lora}
        return self._post("/completion", {"prompt": list(ids), **one, **more})

    def _post(self, path: str, body: Any) -> Any:
        connection = http.client.HTTPConnection(self._process.address, timeout=600)
        try:
            connection.request("POST", path, json.dumps(body), self._process.headers)
            response = connection.getresponse()
            content = response.read().decode("utf-8", "replace")
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{path}: {content[:500]}")
        return json.loads(content)


@contextmanager
def asked(setup: Setup) -> Generator[Asked]:
    """A llama.cpp to ask, ended at the end. Raises ExportError where it can't run the files, or ends on the
    way."""
    process = Process(setup)
    try:
        yield Asked(process)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        process.stop()
        where = str(setup.adapters[-1] if setup.adapters else setup.model)
        why = str(error) if isinstance(error, RuntimeError) else process.last_words()
        raise ExportError("llama.cpp can't run it", where, why) from None
    finally:
        process.stop()
