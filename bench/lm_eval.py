"""The figure that lm-eval finds for a served model, against the same by torch: bits for each byte of a few
short texts. lm-eval asks the endpoint for tokens and their log probabilities (`local-completions`).

    python -m venv lm && lm/bin/pip install 'lm-eval[api]==0.4.13'
    python bench/lm_eval.py RUN_OR_ADAPTER_OR_BASE --lm-eval lm/bin/lm_eval
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from common import arguments, machine, report
from serve import ours

TEXTS = (
    "Plant an apple tree in autumn, when its leaves have fallen.",
    "Water a young tree once a week, and more in a dry summer.",
    "The old oak behind the house is three hundred years old.",
)
TASK = """\
task: sapwood_texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
metadata: {{version: 1}}
"""


def by_lm_eval(program: str, url: str, model: str, folder: Path) -> float:
    rows = [json.dumps({"text": text}) for text in TEXTS]
    (folder / "texts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    task = TASK.format(data=folder / "texts.jsonl")
    (folder / "sapwood_texts.yaml").write_text(task, encoding="utf-8")
    told = f"model={model},base_url={url}/completions,tokenizer_backend=remote,num_concurrent=2"
    command = [program, "--model", "local-completions", "--model_args", told, "--tasks", "sapwood_texts"]
    command += ["--include_path", str(folder), "--output_path", str(folder / "out")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = list((folder / "out").rglob("results_*.json"))
    if done.returncode or not found:
        raise SystemExit(f"lm-eval: {done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    results: dict[str, Any] = json.loads(found[0].read_text(encoding="utf-8"))["results"]["sapwood_texts"]
    return float(results["bits_per_byte,none"])


def by_torch(target: str, runs: str) -> float:
    """After the end token, as lm-eval begins a text."""
    from sapwood.export.traces import log_probs
    from sapwood.serve.load import open_target

    loaded = open_target(target, Path(runs), exact=True)
    tokenizer, bits = loaded.tokenizer, 0.0
    for text in TEXTS:
        ids = [tokenizer.eos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
        rows = log_probs(loaded.network, ids, 1)
        bits -= sum(float(rows[i, id]) for i, id in enumerate(ids[1:])) / math.log(2)
    return bits / sum(len(text.encode()) for text in TEXTS)


def main() -> int:
    parser = arguments(__doc__, rows=0)
    parser.add_argument("target", nargs="?", help="a run, an adapter or a base (the model)")
    parser.add_argument("--runs", default="runs", help="folder of runs (%(default)s)")
    parser.add_argument("--lm-eval", default="lm_eval", help="the program, of an environment of its own")
    given = parser.parse_args()
    from tests.base.tiny import tiny_llama

    facts = machine()
    with tempfile.TemporaryDirectory(prefix="sapwood-lm-eval-") as place:
        folder = Path(place)
        target = str(tiny_llama(folder)) if given.smoke else given.target or given.model
        with ours(target, given.runs) as told:
            model = told["models"][-1]["id"]
            theirs = by_lm_eval(given.lm_eval, told["url"], model, folder)
        mine = by_torch(target, given.runs)
    apart = abs(theirs / mine - 1)
    print(f"bits per byte: lm-eval through the endpoint {theirs:.5f}, torch {mine:.5f}, {apart:.3%} apart")
    report("lm_eval", given, facts, {"lm_eval": theirs, "torch": mine, "apart": apart})
    return int(apart > 0.01)


if __name__ == "__main__":
    raise SystemExit(main())
