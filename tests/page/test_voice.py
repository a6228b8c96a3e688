"""Losses of rows, as the page's helper measures them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sapwood import finetune
from sapwood.page.work.voice import row_losses
from sapwood.prepare.cache import unpack_examples
from sapwood.prepare.study import DATA, TRAIN
from sapwood.serve.load import open_target
from sapwood.serve.tokens import token_losses
from tests.crash.work import tiny_config


def test_a_rows_loss_is_the_mean_over_what_it_learns_whatever_the_row_weighs(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, train={"max_steps": 1}, data={"eval": 0})
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Tree {i}?"},
                {"role": "assistant", "content": f"Water tree {i}."},
            ],
            "weight": 0.25 * (i + 1),
        }
        for i in range(4)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = finetune(config).path.parent
    file = tmp_path / "losses.npz"
    for _ in row_losses(str(run), str(run.parent), str(file), 10):
        pass
    found = np.load(file)["loss"]
    loaded = open_target(str(run), run.parent)
    examples = unpack_examples((run / DATA / TRAIN).read_bytes(), run / DATA / TRAIN)
    assert any(example.weights is not None for example in examples)
    wanted = [token_losses(loaded, example)[example.trained].mean() for example in examples]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
