"""Which linears a text's loss reaches. An adapter on any other learns nothing: its model reads the weight
without calling the linear, calls the linear for pictures alone, or uses the result to choose tokens, which
has no gradient."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from sapwood.base.inspect import quiet
from sapwood.base.network.parts import is_linear
from sapwood.base.tiny import VOCABULARY, WINDOW, decides_copy, tiny_network
from sapwood.machine.measure import one_thread
from sapwood.machine.shortage import refuse_shortage

# Tokens of the text that a copy is asked with: more than a window holds, or an indexer chooses. If something
# seems idle, a second text is longer than the blocks of 128 tokens that some layers compress.
TOKENS = (6 * WINDOW, 160)

_asked: dict[str, frozenset[str]] = {}  # by config: a process asks a model's shapes again and again


def unreached(model: Any) -> set[str]:
    """Names of the model's linears to whose results no gradient of a text's loss comes.

    A tiny copy is asked; of ``model`` only the names and the config are used. A linear that a gradient
    reaches in one layer of the copy counts as reached in all, and so does one of an expert: few tokens don't
    choose every expert. None is named if no copy can be made; then the trial before a run says why.
    """
    config = model.config
    if (key := decides_copy(config)) not in _asked:
        _asked[key] = _ask(config)
    return {name for name, _ in model.named_modules() if _form(name) in _asked[key]}


def _ask(config: Any) -> frozenset[str]:
    """Forms of the linears of a tiny copy that no gradient reaches in any layer."""
    import torch

    try:
        with quiet(), one_thread(), torch.random.fork_rng(devices=[]), torch.enable_grad():
            network = tiny_network(config)
            head = network.get_output_embeddings()
            linears = {name: m for name, m in network.named_modules() if is_linear(m) and m is not head}
            reached: set[str] = set()
            for name, linear in linears.items():
                linear.register_forward_hook(partial(_watch, _form(name), reached))
            idle = frozenset(map(_form, linears))
            torch.manual_seed(0)
            for tokens in TOKENS:
                ids = torch.randint(3, VOCABULARY, (1, tokens))
                logits = network(input_ids=ids, use_cache=False).logits[0, :-1]
                torch.nn.functional.cross_entropy(logits.float(), ids[0, 1:]).backward()
                if not (idle := idle - reached):
                    break
    except Exception as error:  # each architecture has its own
        refuse_shortage(error, "a tiny copy of the model was tried")
        return frozenset()
    _asked[decides_copy(network.config)] = idle  # the trial before a run trains the copy
    return idle


def _watch(form: str, reached: set[str], linear: Any, inputs: Any, output: Any) -> None:
    """Note ``form`` when a gradient comes to what the linear gave."""

    def seen(gradient: Any) -> None:
        if gradient.any():
            reached.add(form)

    if output.requires_grad:
        output.register_hook(seen)


def _form(name: str) -> str:
    """The same for all layers, and for all experts."""
    return re.sub(r"\d+", "#", name)
