"""llama.cpp in a process of its own: questions in a JSON file, answers in another, then it ends.

Run as ``python -m sapwood.export.llama_child FOLDER``. llama.cpp ends its process where it can't go on; that
must not be ours. It is asked through its own server, on a loopback port that only this process knows.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from sapwood.machine.system import cores

QUESTIONS, ANSWERS = "questions.json", "answers.json"
CERTAIN = 1e4  # added to a logit: no other token can be chosen


class Llama:
    """A loaded model, and perhaps an adapter on it."""

    def __init__(self, model: str, adapter: str | None, context: int) -> None:
        llama: Any = importlib.import_module("xllamacpp")  # a compiled module: it says no types
        settings = llama.CommonParams()
        settings.model.path = model
        settings.n_ctx = context
        settings.n_parallel = 1
        settings.n_gpu_layers = 0
        settings.cpuparams.n_threads = cores()
        settings.fit_params = False
        settings.warmup = False
        settings.swa_full = True  # keep what lies before a sliding window, so that beginnings are shared
        settings.use_jinja = True
        settings.cache_ram_mib = 0
        settings.verbosity = 0
        settings.port = 0
        if adapter is not None:
            settings.lora_adapters = [llama.CommonAdapterLoraInfo(adapter, 1.0)]
        self._server = llama.Server(settings)
        self._host = self._server.listening_address.removeprefix("http://")
        self._plain = self._tokenize("a")[-1]

    def answer(self, question: dict[str, Any]) -> Any:
        """One of: tokenize, prompt, next, stops."""
        return getattr(self, f"_{question.pop('ask')}")(**question)

    def _tokenize(self, text: str, add_special: bool = False) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return self._post("/tokenize", body)["tokens"]

    def _prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """What its chat endpoint sends: the file's template, then the tokenizer with all that it adds."""
        text = self._post("/apply-template", {"messages": messages})["prompt"]
        return self._tokenize(text, add_special=True)

    def _next(self, ids: list[int], top: int) -> list[tuple[int, float]]:
        """The likeliest tokens after ``ids``, each with its log probability, before sampling.

        What is then chosen must be a whole visible character: after a stop token, or a part of a character,
        llama.cpp tells no probabilities.
        """
        done = self._complete(ids, n_probs=top, logit_bias=[[self._plain, CERTAIN]])
        return [(t["id"], t["logprob"]) for t in done["completion_probabilities"][0]["top_logprobs"]]

    def _stops(self, ids: list[int], id: int) -> bool:
        """Does generation end when the model chooses ``id``?"""
        return self._complete(ids, logit_bias=[[id, CERTAIN]])["stop_type"] == "eos"

    def _complete(self, ids: list[int], **more: Any) -> Any:
        body = {"prompt": ids, "n_predict": 1, "temperature": 0, "cache_prompt": True, **more}
        return self._post("/completion", body)

    def _post(self, path: str, body: Any) -> Any:
        connection = http.client.HTTPConnection(self._host, timeout=600)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read().decode("utf-8", "replace")
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{path}: {content[:500]}")
        return json.loads(content)


def main(folder: Path) -> None:
    todo = json.loads((folder / QUESTIONS).read_text(encoding="utf-8"))
    llama = Llama(todo["model"], todo["adapter"], todo["context"])
    answers = [llama.answer(question) for question in todo["questions"]]
    (folder / ANSWERS).write_text(json.dumps(answers), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # the server's own threads need not be waited for


if __name__ == "__main__":
    main(Path(sys.argv[1]))
