"""An adapter's folder in older libraries: PEFT 0.12 and 0.13 with transformers 4.57 answer as was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from sapwood.adapter.files import write_adapter
from sapwood.config.sections import LoraConfig
from tests.base.tiny import tiny_llama
from tests.serve.tiny_chat import tuned

old = pytest.importorskip("tests.compat.old", reason="tests/compat/old.py builds the older environment")
IDS = [1, 300, 301, 302, 2, 1, 77, 78, 79]
ANSWER = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], torch_dtype=torch.float32)
model = PeftModel.from_pretrained(base, sys.argv[2]).eval()
with torch.no_grad():
    print(json.dumps(model(torch.tensor([json.loads(sys.argv[3])])).logits[0].tolist()))
"""


@pytest.mark.parametrize("peft", get_args(old.Peft))
@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "ia3", "prompt"])
def test_an_older_peft_answers_as_was_trained(method: Any, peft: Any, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path)
    model, _ = tuned(base, LoraConfig(rank=4, method=method, virtual_tokens=4))
    with torch.no_grad():
        for name, parameter in model.parameters.items():
            if "lora_" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        expected = model.peft.eval()(torch.tensor([IDS])).logits[0]
    write_adapter(model, tmp_path / "adapter")
    found = torch.tensor(old.require_old().run(ANSWER, base, tmp_path / "adapter", IDS, peft=peft))
    torch.testing.assert_close(found[-len(IDS) :], expected[-len(IDS) :], rtol=1e-4, atol=1e-4)
