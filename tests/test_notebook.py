"""The example notebook runs from its first cell to its last, and draws."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "finetune.ipynb"


def test_the_notebook_trains_and_draws_the_curve(smollm2_spec: Any, tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    training = next(cell for cell in notebook.cells if "LiveCurve(config)" in cell.source)
    pictures = [output for output in training.outputs if output.output_type == "display_data"]
    assert len(pictures) == 1, "one picture, redrawn in its place"
    assert base64.b64decode(pictures[0].data["image/png"]).startswith(b"\x89PNG")
    assert "adapter" in training.outputs[-1].data["text/plain"]
    answers = next(cell for cell in notebook.cells if "read_samples" in cell.source)
    assert "step 0:" in answers.outputs[0].text
    assert "step 3:" in answers.outputs[0].text
