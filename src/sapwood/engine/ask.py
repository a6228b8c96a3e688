"""Questions to a llama.cpp of one's own: an export's check, answers in a stream, many answers at once."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

from sapwood.engine.ending import Ending
from sapwood.engine.process import Process, Setup, Started, scales
from sapwood.engine.wire import Ask, Piece, body_of, piece_of
from sapwood.errors import ExportError

CERTAIN = 1e4  # added to a logit: no other token can be chosen
LOOK = 0.3  # seconds between two looks at how many answers are done
UNDONE = ("llamacpp:requests_processing ", "llamacpp:requests_deferred ")


class Asked:
    """A running llama.cpp, with the first of its adapters on its base if it has any."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._adapter = next(iter(process.setup.adapters), None)
        self._last: object = None  # who computed in the slots last
        self._plain = -1

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
        if self._plain < 0:
            self._plain = self.tokenize("a")[-1]
        done = self._complete(ids, n_probs=top, logit_bias=[[self._plain, CERTAIN]])
        return [(t["id"], t["logprob"]) for t in done["completion_probabilities"][0]["top_logprobs"]]

    def stops(self, ids: Sequence[int], id: int) -> bool:
        """Does generation end when the model chooses ``id``?"""
        return self._complete(ids, logit_bias=[[id, CERTAIN]])["stop_type"] == "eos"

    def stream(self, ask: Ask, *, base: bool = False) -> Generator[Piece]:
        """The answer piece by piece, by the adapter or by the base alone; the last one has its end. Who stops
        listening ends the answer in llama.cpp too."""
        ending = Ending(ask)
        with closing(self._request("/completion", self._body(ask, base=base))) as response:
            for line in response:
                if line.startswith(b"data: "):
                    told = json.loads(line[6:])
                    if "error" in told:
                        raise RuntimeError(json.dumps(told)[:500])
                    yield from ending.feed(piece_of(told, ask))
                    if ending.done:
                        return
                elif line.startswith(b"error: "):
                    raise RuntimeError(line[7:507].decode("utf-8", "replace"))
        raise RuntimeError("it ended without an end")

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        *,
        base: bool = False,
        far: Callable[[int], object] = lambda done: None,
    ) -> list[list[int]]:
        """The greedy answers to all prompts, computed side by side: the ids of each, a stop token included if
        one came. ``far``: is told how many are done.

        All are asked in one request. llama.cpp then takes them up in one order, whatever the machine does
        meanwhile, so that sums are made in one order too: a run that is resumed gets the same answers.
        """
        body = self._body(Ask((), most), base=base)
        body |= {"prompt": [list(ids) for ids in prompts], "stream": False, "return_tokens": True}
        body |= {"id_slot": -1, "repeat_last_n": 0, "samplers": ["temperature"]}
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(self._post, "/completion", body)
            try:
                while not _done_within(asking, LOOK):
                    far(max(0, len(prompts) - self._undone()))
            except BaseException:
                self._process.stop(0)  # otherwise the thread would wait for answers that nobody wants
                raise
            told = asking.result()
        found = told if isinstance(told, list) else [told]
        return [one["tokens"] for one in sorted(found, key=lambda one: one["index"])]

    def _body(self, ask: Ask, *, base: bool) -> dict[str, Any]:
        """A request to llama.cpp. If adapter and base take turns, what the other one left in a slot isn't
        used."""
        who = None if base else self._adapter
        clean, self._last = self._last != (who,), (who,)
        return body_of(ask, scales(self._process.setup.adapters, who), 0, clean=clean)

    def _undone(self) -> int:
        """Answers that are being written, or wait for a slot."""
        lines = self._request("/metrics", None).read().decode("utf-8", "replace").splitlines()
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith(UNDONE))

    def _complete(self, ids: Sequence[int], **more: Any) -> Any:
        lora = scales(self._process.setup.adapters, self._adapter)
        one = {"n_predict": 1, "temperature": 0, "cache_prompt": True, "lora": lora}
        return self._post("/completion", {"prompt": list(ids), **one, **more})

    def _post(self, path: str, body: Any) -> Any:
        with closing(self._request(path, body)) as response:
            return json.loads(response.read())

    def _request(self, path: str, body: Any) -> http.client.HTTPResponse:
        """``body``: JSON; None only asks. The connection ends with its answer."""
        connection = http.client.HTTPConnection(self._process.address)
        headers = self._process.headers | {"Connection": "close"}
        connection.request("GET" if body is None else "POST", path, body and json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.read().decode('utf-8', 'replace')[:500]}")
        return response


@contextmanager
def running(setup: Setup, started: Started | None = None) -> Generator[Asked]:
    """A llama.cpp to ask, ended at the end. Raises ExportError if it can't run the files."""
    process = Process(setup, started)
    try:
        yield Asked(process)
    finally:
        process.stop()


@contextmanager
def asked(setup: Setup) -> Generator[Asked]:
    """`running`; raises ExportError if it ends on the way, too."""
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


def _done_within(work: Any, seconds: float) -> bool:
    try:
        work.result(seconds)
    except TimeoutError:
        return False
    return True
