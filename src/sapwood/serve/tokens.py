"""How likely a model finds each token, and which tokens it finds likelier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sapwood.adapter.soft_prompt import lead_length
from sapwood.errors import ConfigError
from sapwood.serve.generate import generation_attention, likely
from sapwood.serve.load import Loaded
from sapwood.types import Example

RUNNERS_UP = 4
AT_ONCE = 256  # positions whose scores are held at once


def likeliest(logits: Tensor, token: int, count: int = RUNNERS_UP) -> tuple[float, list[tuple[int, float]]]:
    """logits: [vocabulary] -> the probability of ``token``, and the likeliest other ones with theirs."""
    log_p, best = likely(logits, token, count + 1)
    return math.exp(log_p), [(id, math.exp(p)) for id, p in best if id != token][:count]


@torch.no_grad()
def token_losses(loaded: Loaded, example: Example, *, base: bool = False) -> NDArray[np.float32]:
    """-log p of each token after those before it, in nats: float32[T], not a number for the first.

    base: of the base alone. Raises ConfigError for a soft prompt, whose tokens stand before all positions.
    """
    if lead_length(loaded.network):
        what = "losses of single tokens aren't measured with a soft prompt"
        raise ConfigError(
            what, loaded.name, "the virtual tokens of a soft prompt stand before every position"
        )
    device = next(loaded.network.parameters()).device
    ids = torch.tensor(example.ids[None].astype(np.int64), device=device)
    found = np.full(len(example), np.nan, np.float32)
    with loaded.without_adapter() if base else nullcontext(), generation_attention(loaded.network):
        for start in range(0, len(example) - 1, AT_ONCE):
            at = range(start, min(start + AT_ONCE, len(example) - 1))
            found[at.start + 1 : at.stop + 1] = _losses(loaded, ids, at)
    return found


def _losses(loaded: Loaded, ids: Tensor, at: range) -> NDArray[np.float32]:
    """-log p of the token behind each of the positions ``at``, in nats."""
    seen = ids[:, : at.stop]
    kept: Sequence[int] = list(at)
    logits = loaded.network(
        input_ids=seen, use_cache=False, logits_to_keep=torch.tensor(kept, device=ids.device)
    ).logits[0]
    target = ids[0, at.start + 1 : at.stop + 1]
    return -logits.float().log_softmax(-1).gather(1, target[:, None])[:, 0].cpu().numpy()
