"""Five operations on a device against the CPU, in fp32 and in the format of its bases: a driver or a
backend that computes something else is refused before a run, and never trusted in silence.

=========  ================================================================================
linear     a product and the gradients of both factors
softmax    attention by its definition, with a mask
norm       the mean of squares over a row, and its gradient
gather     rows of an embedding by ids, and the sum of gradients where an id comes twice
loss       cross-entropy, and its gradient
=========  ================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from sapwood.errors import ModelError, first_line

if TYPE_CHECKING:
    from torch import Tensor

ROWS, WIDTH = 48, 64
NEAR = {
    "float32": 2e-3,
    "bfloat16": 3e-2,
    "float16": 5e-3,
}  # of the norm; products of fp32 may be rounded to TF32
Operation = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]  # x, y: [ROWS, WIDTH]; ids: [ROWS]


def linear(x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
    return x @ y.T


def softmax(x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
    scores = (x @ y.T * WIDTH**-0.5).masked_fill(ids[:, None] < ids[None], float("-inf"))
    return scores.softmax(-1) @ x


def norm(x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
    return x * (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt().to(x.dtype) * y


def gather(x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
    from torch.nn.functional import embedding

    return embedding(ids, x) * y


def loss(x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy((x * y).float(), ids)


OPERATIONS: tuple[Operation, ...] = (linear, softmax, norm, gather, loss)


def results(operation: Operation, place: str, dtype: str) -> list[Tensor]:
    """The value and both gradients, in fp64 on the CPU. The inputs are the same wherever they are used."""
    import torch

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, ROWS // 2, (ROWS,), generator=generator)
    drawn = [torch.randn(ROWS, WIDTH, generator=generator) for _ in range(2)]
    x, y = (one.to(place, getattr(torch, dtype)).requires_grad_() for one in drawn)
    value = operation(x, y, ids.to(place))
    grads = torch.autograd.grad(value.float().square().sum(), (x, y))
    return [one.detach().cpu().double() for one in (value, *grads)]


def faults(place: str, dtypes: Sequence[str]) -> list[str]:
    """The operations that differ there, each with its format and by how much: ``norm in bf16: 0.31``."""
    import torch

    found: list[str] = []
    for dtype in dtypes:
        for operation in OPERATIONS:
            try:
                pairs = zip(results(operation, place, dtype), results(operation, "cpu", dtype), strict=True)
                gap = max(float((mine - truth).norm() / truth.norm()) for mine, truth in pairs)
            except (RuntimeError, NotImplementedError, TypeError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                found.append(f"{operation.__name__} in {dtype}: {first_line(error)}")
                continue
            if not gap <= NEAR[dtype]:  # NaN too
                found.append(f"{operation.__name__} in {dtype}: {gap:.2g} apart")
    return found


@cache
def prove(place: str, dtypes: tuple[str, ...]) -> None:
    """Once a process. Raises ModelError where the device computes something else than the CPU, or can't
    compute at all because other processes fill it."""
    import torch

    try:
        wrong = faults(place, dtypes)
    except torch.OutOfMemoryError:
        why = "five small matrix products don't fit beside other processes"
        mend = "end them (nvidia-smi lists them), or base.device_map=cpu"
        raise ModelError("the GPU is full", place, why, mend) from None
    if wrong:
        why = f"against the CPU: {'; '.join(wrong)}"
        mend = "update the driver and torch, or base.device_map=cpu"
        raise ModelError("the GPU computes wrong numbers", place, why, mend)
