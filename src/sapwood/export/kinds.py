"""The forms that an export has, and the file that its check is written to: known without a model at hand."""

from __future__ import annotations

from typing import Literal

Kind = Literal["merged", "gguf-adapter", "gguf", "ollama"]
CHECK = "check.json"
