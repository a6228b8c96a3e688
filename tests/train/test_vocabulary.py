"""Embedding and head in shares: the numbers of whole ones, in every architecture, and never a whole one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sapwood.compute import loss as loss_module
from sapwood.compute.loss import label_loss
from sapwood.train.processes import vocabulary
from sapwood.train.processes.vocabulary import DividedRows, divide_vocabulary
from sapwood.train.processes.world import join
from sapwood.types import Head
from tests.base.tiny import ARCHITECTURES, tiny_model
from tests.compute.slow import FASTEST
from tests.several import start

IDS = torch.arange(3, 590, 7)[None]  # from every share and part
ROWS, PART = 20, 128


def answer(network: Any) -> dict[str, Any]:
    """Logits of the whole network, and the loss over its head with the gradient of the hidden states."""
    with torch.no_grad():
        logits = network(IDS).logits
        hidden = network.get_decoder()(IDS).last_hidden_state
    hidden = hidden.requires_grad_()
    head = Head(network.get_output_embeddings().weight if not hasattr(network, "shares") else network.shares)
    at = torch.arange(ROWS * (1 + hasattr(network, "longer")))
    loss = label_loss(hidden, at, IDS[0, at], head, FASTEST).total
    loss.backward()
    return {"logits": logits, "loss": loss.detach(), "grad": hidden.grad[0, :ROWS]}


def compare(folder: str) -> None:
    """What each of three processes finds: the largest difference from whole ones, as a share."""
    vocabulary.VOCABULARY = loss_module.VOCABULARY = PART  # parts that lie in two shares
    loss_module.ROWS = 16  # processes read each part for different numbers of rows
    apart: dict[str, float] = {}
    with join() as world:
        for arch in ARCHITECTURES:
            for tied in (True, False):
                network = tiny_model(arch, tie_word_embeddings=tied)
                if world.rank == 1:
                    network.longer = True
                whole = answer(network)
                rows = network.get_input_embeddings().weight.shape[0]
                network.shares = divide_vocabulary(network)
                assert len(network.get_input_embeddings().weight) == -(-rows // 3)
                assert (network.lm_head.weight is network.get_input_embeddings().weight) == tied
                found = answer(network)
                gaps = {k: float((found[k] - whole[k]).abs().max() / whole[k].abs().max()) for k in whole}
                apart[f"{arch} {tied}"] = max(gaps.values())
        narrow = torch.arange(40.0).view(10, 4).bfloat16()
        assert torch.equal(DividedRows(narrow)[3:9], narrow[3:9]), "in any format"
    (Path(folder) / f"{world.rank}.json").write_text(json.dumps(apart))


def test_shares_give_the_numbers_of_whole_ones(tmp_path: Path) -> None:
    group = start(compare, 3, tmp_path, str(tmp_path))
    assert group.wait() == [0, 0, 0], [path.read_text() for path in group.outputs]
    for rank in range(3):
        apart = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(apart) == 2 * len(ARCHITECTURES)
        assert max(apart.values()) <= 1e-5, apart
