"""Embedding and head of a divided base: each process holds a share of their rows, and none ever holds all.

Embedding and head are a fifth of a small model, and a tenth of a model with a large vocabulary. Whole, they
would be most of what a process holds besides its share. So they go round in parts, for the look-up and for
the loss, which reads the head in parts anyway. The traffic is the same as if they were gathered.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.compute.loss import VOCABULARY


class DividedRows:
    """A frozen matrix of which each process holds a share of the rows. A slice of it is whole in all of them,
    if all ask for the same slices in the same order.

    own: Parameter [up to ceil(rows / processes), columns]. largest: bytes of the largest part.
    """

    def __init__(self, whole: Tensor) -> None:
        from torch import distributed

        self.shape = whole.shape
        self._rank = distributed.get_rank()
        self._each = -(-len(whole) // distributed.get_world_size())
        first = self._rank * self._each
        self.own = nn.Parameter(whole[first : first + self._each].detach().clone(), requires_grad=False)

    @property
    def largest(self) -> int:
        return min(VOCABULARY, self.shape[0]) * self.shape[1] * self.own.element_size()

    def __getitem__(self, rows: slice) -> Tensor:
        """[n, columns], a copy that the caller may change."""
        from torch import distributed

        start, stop, _ = rows.indices(self.shape[0])
        out = self.own.new_empty(stop - start, self.shape[1])
        for owner in range(start // self._each, -(-stop // self._each)):
            first = owner * self._each
            piece = out[max(start, first) - start : min(stop, first + self._each) - start]
            if owner == self._rank:
                piece.copy_(self.own[max(start, first) - first : min(stop, first + self._each) - first])
            distributed.broadcast(piece.view(torch.uint8), owner)  # bytes: gloo doesn't know every format
        return out

    def parts(self) -> Iterator[tuple[int, Tensor]]:
        """All of it, a part after the other, each with the number of its first row."""
        for start in range(0, self.shape[0], VOCABULARY):
            yield start, self[start : start + VOCABULARY]


def with_weight(module: Any, weight: Tensor, x: Tensor) -> Tensor:
    """What a module of that class makes of ``x`` with another weight than its own."""
    own = module._parameters["weight"]
    module._parameters["weight"] = weight
    try:
        return type(module).forward(module, x)
    finally:
        module._parameters["weight"] = own


def divide_vocabulary(network: Any) -> DividedRows:
    """Divide embedding and head, which may be one matrix, by rows. Returns the divided head. Both modules
    stay as they are, except for their weight and for what they compute with it: an embedding of its own kind
    (with a scale, for example) looks up in every part, and takes what is in it."""
    embedding, out = network.get_input_embeddings(), network.get_output_embeddings()
    tied = embedding.weight is out.weight
    words = DividedRows(embedding.weight)
    head = words if tied else DividedRows(out.weight)

    def look_up(self: Any, ids: Tensor) -> Tensor:
        found: Tensor | None = None
        for start, weight in words.parts():
            at = (ids - start).clamp(0, len(weight) - 1)
            here = with_weight(self, weight, at)
            inside = (ids >= start) & (ids < start + len(weight))
            found = here if found is None else torch.where(inside.unsqueeze(-1), here, found)
        assert found is not None
        return found

    def project(self: Any, hidden: Tensor) -> Tensor:
        bias = self.bias
        logits = [
            nn.functional.linear(hidden, weight, None if bias is None else bias[start : start + len(weight)])
            for start, weight in head.parts()
        ]
        return torch.cat(logits, -1)

    embedding.weight, out.weight = words.own, head.own
    embedding.forward, out.forward = MethodType(look_up, embedding), MethodType(project, out)
    return head
