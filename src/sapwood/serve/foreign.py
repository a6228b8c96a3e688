"""An adapter that another program made, before any weight is loaded: its base, its template, its numbers.

Only the adapter's own files say what it was trained on. So whatever is taken from them is shown to the user.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sapwood.adapter.elsewhere.read import read_saved, refuse_inert
from sapwood.adapter.folder import foreign_base
from sapwood.base.tokenizer import read_tokenizer_of
from sapwood.errors import ModelError
from sapwood.template.families import choose_template
from sapwood.template.render import Renderer
from sapwood.types import BaseSpec

NEW_ROWS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "lm_head.weight")
log = logging.getLogger("sapwood")


@dataclass(frozen=True, slots=True)
class Foreign:
    """An adapter of another program.

    Attributes:
        spec: its base, with the adapter's own tokenizer if it brings one.
        settings, tensors: as PEFT saves them.
    """

    spec: BaseSpec
    renderer: Renderer
    settings: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def dense(self) -> bool:
        """Whether the adapter needs the base's own weights: for magnitudes, for new rows, or for what PEFT
        computes from them."""
        plain = self.settings["peft_type"] in ("LORA", "IA3") and not self.settings.get("use_dora")
        whole = any(self.settings.get(key) for key in ("modules_to_save", "trainable_token_indices"))
        return not plain or whole


def read_foreign(place: Path, base: str | None, template: str | None) -> Foreign:
    """What lies at ``place``, on ``base`` or on the base that the adapter names, behind ``template`` or the
    tokenizer's own. Raises ModelError: no base is told or found, or the adapter is of no known form."""
    spec, own = with_tokenizer(foreign_base(place, base), place)
    settings, tensors = read_saved(place, spec.hf_config)
    refuse_inert(tensors, place)
    renderer = Renderer(spec.tokenizer, choose_template(spec.tokenizer, template or "auto"), spec.stop_ids)
    whose = template or ("the adapter's tokenizer" if own else "the base's tokenizer")
    log.warning(
        "%s: nothing proves what it was trained on; base %s, template of %s, answers end on %s",
        place, spec.source, whose, renderer.stop_text,
    )  # fmt: skip
    return Foreign(spec, renderer, settings, tensors)


def rows_of(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], spec: BaseSpec) -> int:
    """Rows of the embedding that an adapter was trained with: more than its base's if tokens were added."""
    told: Any = settings.get("trainable_token_indices") or ()
    lists = told.values() if isinstance(told, dict) else [told]
    sizes = [len(tensor) for name, tensor in tensors.items() if name.endswith(NEW_ROWS)]
    sizes += [1 + max(one) for one in lists if one]
    return max([spec.hf_config.get_text_config().vocab_size, *sizes])


def with_tokenizer(spec: BaseSpec, place: Path) -> tuple[BaseSpec, bool]:
    """``spec`` with the tokenizer of the adapter's folder, which may have new tokens and the template of the
    training; and whether the template comes from that tokenizer."""
    if not (place / "tokenizer.json").is_file():
        return spec, False
    tokenizer = read_tokenizer_of(place)
    ours: dict[str, int] = spec.tokenizer.get_vocab()
    theirs: dict[str, int] = tokenizer.get_vocab()
    if odd := next((token for token, id in ours.items() if theirs.get(token) != id), None):
        told = theirs.get(odd)
        why = f"token {odd!r} has the id {told} in the adapter's tokenizer.json, {ours[odd]} in the base's"
        raise ModelError(
            "the adapter was trained with another tokenizer", str(place), why, "name its base: --base MODEL"
        )
    own = tokenizer.chat_template is not None
    if not own:
        tokenizer.chat_template = spec.tokenizer.chat_template
    eos = tokenizer.eos_token_id
    stops = tuple(dict.fromkeys([*spec.stop_ids, *([] if eos is None else [int(eos)])]))
    return replace(spec, tokenizer=tokenizer, stop_ids=stops), own
