"""Norms and gated MLPs with less to keep: the same bits forward, the same gradients backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sapwood.compute.backend import REFERENCE, Backend
from sapwood.compute.lighten import lighten
from tests.base.tiny import ARCHITECTURES, tiny_model
from tests.compute.slow import FASTEST


def kept_bytes(model: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(logits, gradient of the input, bytes that autograd kept)."""
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    embedded = inputs.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(inputs_embeds=embedded, use_cache=False).logits
    (grad,) = torch.autograd.grad(logits.float().square().sum(), embedded)
    return logits.detach(), grad, sum(seen.values())


@pytest.mark.parametrize("backend", [REFERENCE, FASTEST], ids=["reference", "compiled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_same_bits_same_gradient_less_kept(arch: str, dtype: torch.dtype, backend: Backend) -> None:
    """A compiled norm adds up in another order, and rounds bf16 once where torch's operations do it twice."""
    model = tiny_model(arch).to(dtype).requires_grad_(False)
    inputs = model.get_input_embeddings()(torch.arange(3, 60)[None]).detach()
    logits, grad, kept = kept_bytes(model, inputs)
    blocks = [m for m in model.modules() if "RMSNorm" in type(m).__name__ or hasattr(m, "down_proj")]
    assert lighten(model, backend) == len(blocks)
    light_logits, light_grad, light_kept = kept_bytes(model, inputs)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2  # bf16 rounds at other places
    if backend.native:
        assert float((logits - light_logits).norm() / logits.norm()) < 3 * tolerance
        assert float((grad - light_grad).norm() / grad.norm()) < 3 * tolerance
    else:
        assert torch.equal(logits, light_logits)
        assert float((grad - light_grad).abs().max() / grad.abs().max()) < tolerance
    assert light_kept < kept


class OddRMSNorm(nn.Module):
    """Normalises by the mean of absolute values: not what its name says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.eps = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / (x.abs().mean(-1, keepdim=True) + self.eps) * self.weight


class OddMLP(nn.Module):
    """Adds where others multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.act_fn = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) + self.up_proj(x))


class GatedRMSNorm(nn.Module):
    """A plain norm, and more where it is given a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        x = x if gate is None else x * nn.functional.silu(gate)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class WeightlessRMSNorm(nn.Module):
    """Its buffer says nothing about the width of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(8))
        self.eps = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


@pytest.mark.parametrize("block", [OddRMSNorm, OddMLP, GatedRMSNorm, WeightlessRMSNorm])
def test_what_computes_something_else_stays_as_it_is(block: type[nn.Module]) -> None:
    module = block()
    assert lighten(nn.Sequential(module, nn.Linear(8, 8)), REFERENCE) == 0
    assert "forward" not in vars(module)
