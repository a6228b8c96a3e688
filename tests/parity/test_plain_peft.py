"""What was trained here is what plain PEFT loads, on the real model."""

from __future__ import annotations

from pathlib import Path

import torch

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.files import write_adapter
from sapwood.base.load import load_base
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.types import BaseSpec


def test_the_adapter_of_smollm2_gives_the_same_logits_in_plain_peft(
    smollm2_spec: BaseSpec, tmp_path: Path
) -> None:
    from peft import PeftModel

    config = BaseConfig(storage="fp32")
    ours = attach_lora(load_base(smollm2_spec, config), LoraConfig(rank=8), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in ours.parameters.items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    write_adapter(ours, tmp_path)
    theirs = PeftModel.from_pretrained(load_base(smollm2_spec, config).model, str(tmp_path)).eval()
    ids = torch.tensor([smollm2_spec.tokenizer.encode("When should I plant an apple tree, neighbour?")])
    with torch.no_grad(), ours.peft.disable_adapter():
        base = ours.peft(input_ids=ids).logits
    with torch.no_grad():
        a, b = ours.peft(input_ids=ids).logits, theirs(input_ids=ids).logits
    assert float((a - base).abs().max()) > 0.5, "the adapter must matter"
    assert float((a - b).abs().max()) <= 1e-4
