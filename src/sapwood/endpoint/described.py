"""What the endpoint tells of a served model: what the model was trained on, and its proof."""

from __future__ import annotations

from typing import Any

from sapwood.endpoint.library import Served


def described(served: Served) -> dict[str, Any]:
    """What ``/v1/models`` tells of it beside OpenAI's own fields."""
    found, facts, verdict = served.found, served.found.facts, served.verdict
    told: dict[str, Any] = {"engine": served.engine.kind, "max_model_len": served.engine.context}
    if facts is not None:
        told["trained"] = {
            "base_fingerprint": facts.base_fingerprint,
            "template_fingerprint": facts.template_fingerprint,
            "data_sha256": facts.data_sha256 or None,
            "method": facts.lora.get("method"),
            "rank": facts.lora.get("rank"),
            "held_out_loss": facts.final_loss,
            "run": found.name,
        }
    if verdict is not None and served.parent is not None:
        told["proof"] = {
            "difference": verdict.difference, "limit": verdict.limit, "positions": verdict.positions,
            "moved_from_base": verdict.moved,
        }  # fmt: skip
    return told
