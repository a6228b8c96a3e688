"""What training gives, and the forms in which it leaves sapwood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sapwood.serve.model import Model

Kind = Literal["merged", "gguf-adapter", "gguf", "ollama"]  # the forms of an export
CHECK = "check.json"  # in an export: how it was held against what was trained


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained adapter: a PEFT folder and the facts that keep it from being misapplied.

    Attributes:
        path: the folder.
        base: name of the base model, as the config has it.
        base_fingerprint: sha256 of the base's weights and config.
        template_fingerprint: sha256 of the chat template.
        rank: number of rows of each low-rank factor.
        targets: names of the adapted layers.
        final_loss: held-out loss after training, in nats; None if nothing was held out.
        facts: what sapwood.json holds: base, template, losses, the proof.

    Examples:
        >>> adapter = sapwood.resume(sapwood.Run("last").path)
        >>> (adapter.path / "adapter_model.safetensors").is_file()
        True
    """

    path: Path
    base: str
    base_fingerprint: str
    template_fingerprint: str
    rank: int
    targets: tuple[str, ...]
    final_loss: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Model:
        """The base with this adapter, ready to be asked.

        Raises:
            ModelError: base or template is not the one that the adapter was trained on, or it is damaged.

        Examples:
            >>> model = adapter.load()
        """
        from sapwood import load

        return load(self.path)
