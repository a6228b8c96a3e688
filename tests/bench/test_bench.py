"""Every script of bench/ runs in its smoke form and writes the JSON that the README's figures come from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sapwood.prepare.cache import unpack_examples
from tests.base.tiny import tiny_llama

pytestmark = pytest.mark.timeout(600)  # the first test waits for all scripts, beside other tests
BENCH = Path(__file__).parents[2] / "bench"
CASES = ("sapwood-fp32", "trainer-literal", "trainer-fp32-1x16", "trl-padding-free", "trl-packing-512")
ARGUMENTS = {
    "against_peers": [argument for name in CASES for argument in ("--only", name)],
    "loss_parity": [],
    "limit": ["--dropout", "0.1"],
    "prefix": [],
    "scale": [],
    "memory": [],
    "help": [],
    "hostile": [],
    "storage": [],
    "int8": [],
    "estimate": [],
    "costs": [],
    "unpacked": [],
    "methods": ["--only", "pissa", "--only", "prefix"],
    "gpu": [],
    "serve": ["--turns", "1", "--starts", "1"],
    "answers": ["--turns", "1", "--same", "4"],
}


# All in one interpreter: starting one with torch, transformers, peft and trl takes longer than the work.
ALL = """
import json, runpy, sys
for script, arguments in json.loads(sys.argv[1]):
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    environment["PYTHONPATH"] = str(BENCH)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=580, check=False)


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return python(BENCH / f"{script}.py", *arguments)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, Any]]:
    """What each script wrote."""
    folder = tmp_path_factory.mktemp("bench")
    paths = {script: folder / f"{script}.json" for script in ARGUMENTS}
    calls = [
        (str(BENCH / f"{script}.py"), ["--smoke", "--out", str(paths[script]), *arguments])
        for script, arguments in ARGUMENTS.items()
    ]
    done = python("-c", ALL, json.dumps(calls))
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.count("a smoke run") == len(ARGUMENTS)
    found: dict[str, dict[str, Any]] = {}
    for script, path in paths.items():
        assert f"written: {path}" in done.stdout
        one = json.loads(path.read_text(encoding="utf-8"))
        assert one["script"] == script and one["smoke"] is True
        assert one["machine"]["cores"] >= 1 and one["versions"]["torch"]
        found[script] = one | {"path": path}
    return found


def test_everyone_trains_on_the_same_examples_from_the_same_start(smoke: Mapping[str, Any]) -> None:
    rows = {row["name"]: row for row in smoke["against_peers"]["rows"]}
    assert tuple(rows) == CASES
    whole = smoke["against_peers"]["data"]
    for name, row in rows.items():
        assert len(row["seconds"]) == len(row["losses"]) == 2
        assert (sum(row["examples"]), sum(row["tokens"])) == (whole["rows"], whole["tokens"]), name
        assert row["examples_per_s"] > 0 and row["peak_bytes"] > 100e6
        if "packing" in name:  # TRL makes batches of its own, and no target of a packed row's first token
            continue
        assert row["targets"] == rows["sapwood-fp32"]["targets"]
        # B starts at zero: the first loss is the base's, on these very examples
        tolerance = 1e-4 if row["storage"] == "fp32" else 5e-3
        assert row["losses"][0] == pytest.approx(rows["sapwood-fp32"]["losses"][0], abs=tolerance), name


def test_ratios_are_those_of_the_speeds(smoke: Mapping[str, Any]) -> None:
    rows = {row["name"]: row for row in smoke["against_peers"]["rows"]}
    peers = [row for row in rows.values() if row["who"] != "ours"]
    best = max(peers, key=lambda row: row["examples_per_s"])
    assert [row["name"] for row in rows.values() if row["best_peer"]] == [best["name"]]
    ours = rows["sapwood-fp32"]
    assert ours["speed_vs_best_peer"] == pytest.approx(ours["examples_per_s"] / best["examples_per_s"])
    assert rows["trainer-literal"]["speed_vs_literal"] == 1


def test_losses_are_those_of_trainer_and_peft(smoke: Mapping[str, Any]) -> None:
    found = smoke["loss_parity"]
    assert found["max_apart"] == max(found["apart"]) < found["goal"]
    assert found["ours"]["losses"][1] != found["ours"]["losses"][0]


def test_the_share_is_of_the_highest_rate(smoke: Mapping[str, Any]) -> None:
    for row in smoke["limit"]["rows"]:
        assert row["share"] == pytest.approx(row["reached"] / max(row["rates"].values()))
        assert row["share"] > 0  # on a busy machine a step may be faster than the products timed beside it
        assert sum(row["attention"].values()) > 0  # its functions are called as the bench calls them
        assert 0 < row["attention_share"] < 0.5
    # the tiny llama: two layers of q, o (64 x 64), k, v (32 x 64), gate, up, down (64 x 128); head 600 x 64
    linear, head = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128), 600 * 64
    row = smoke["limit"]["rows"][0]
    assert row["needed"] == 4 * linear * row["computed"][1] + 4 * head * row["targets"][1]


def test_a_shared_prompt_is_computed_once(smoke: Mapping[str, Any]) -> None:
    ours, *peers = smoke["prefix"]["rows"]
    assert [peer["tokens"] for peer in peers] == [ours["tokens"]] * len(peers)
    assert sum(ours["computed"]) < 0.4 * sum(ours["tokens"])
    assert max(peer["speed_vs_best_peer"] for peer in peers) == 1


def test_scale_covers_lengths_and_rows(smoke: Mapping[str, Any]) -> None:
    found = smoke["scale"]
    assert [row["length"] for row in found["by_length"]] == [64, 128]
    assert [row["tokens"][0] for row in found["by_length"]] == [2 * 64, 2 * 128]
    assert found["by_length"][0]["growth"] == 1 < found["by_length"][1]["expected"] < 2
    assert [sum(row["examples"]) for row in found["by_rows"]] == [32]


def test_packed_weights_give_the_losses_of_dense_ones(smoke: Mapping[str, Any]) -> None:
    parts = smoke["storage"]["parts"]
    by_format = {row["products in"]: row for row in parts["parity"]}
    assert by_format["fp32"]["from dense fp32"] < 1e-5 < by_format["bf16"]["from dense fp32"]
    assert by_format["bf16"]["from dense, same format"] < 1e-3  # PEFT rounds a new A to a dense base's format
    assert parts["memory"][0]["ratio"] < 1.1
    assert [row["storage"] for row in parts["bitsandbytes"]] == ["nf4", "nf4 double", "fp4 double", "int8"]
    assert all(row["logits apart, plain PEFT"] <= 1e-5 for row in parts["bitsandbytes"])


def test_rounding_to_8_bits_costs_little(smoke: Mapping[str, Any]) -> None:
    found = smoke["int8"]
    if "apart" not in found:
        pytest.skip("int8-compute isn't offered on this machine")
    exact, rounded = (row["held_out"] for row in found["rows"])
    assert exact[-1] < exact[0] and rounded[0] != exact[0], "both were trained, and differently"
    assert abs(found["apart"]) < found["goal"]


def test_the_estimate_is_held_against_what_the_run_took(smoke: Mapping[str, Any]) -> None:
    rows = smoke["estimate"]["rows"]
    assert [row["name"] for row in rows] == ["idle", "beside"]
    for row in rows:
        assert row["truth"] == pytest.approx(sum(row["seconds"])) and len(row["seconds"]) == 8 + 2
        for which in ("rates", "pass", "three_steps", "last"):
            assert row[f"{which}_ratio"] == pytest.approx(row[which] / row["truth"])
        assert [step for step, line in row["told"] if line.endswith("by the first 3 steps")] == [3]


def test_the_parts_of_the_estimate_are_measured(smoke: Mapping[str, Any]) -> None:
    found = smoke["costs"]
    assert found["packs"] == "1 and 8" and found["tokens"] > 100
    assert found["twice"] > -1 and found["efficiency"] != 0 and found["pack"] != 0


def test_a_gpu_is_measured_beside_the_trainer(smoke: Mapping[str, Any]) -> None:
    """Here a CPU stands for it: both train on the same rows, in the storage that each shape names."""
    rows = {row["name"]: row for row in smoke["gpu"]["rows"]}
    for model, storage in (("7b", "nf4"), ("1.5b", "bf16")):
        ours, theirs = rows[f"sapwood {model}"], rows[f"Trainer {model}"]
        assert ours["storage"] == theirs["storage"] == storage
        assert ours["tokens"] == theirs["tokens"] == [16 * 512]
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=0.05)
        assert min(ours["tokens_per_s"], theirs["tokens_per_s"], ours["peak_bytes"]) > 0


def test_methods_resume_and_open_in_plain_peft(smoke: Mapping[str, Any]) -> None:
    rows = smoke["methods"]["rows"]
    assert [row["name"] for row in rows] == ["pissa", "prefix"]
    assert all(row["same_bytes"] and row["same_tokens"] and row["answer"] for row in rows)


def test_the_plot_is_made_from_the_json(smoke: Mapping[str, Any], tmp_path: Path) -> None:
    picture = tmp_path / "figures.png"
    done = run("plot", smoke["against_peers"]["path"], picture)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and picture.stat().st_size > 10_000


FRESH = """
import json, sys
from common import Job, run_all
job = Job("prepare", "prepare", model=sys.argv[1], rows=3, sizes=(16, 8, 4))
print(json.dumps([run_all([job], sys.argv[2]), "torch" in sys.modules]))
"""


def test_work_is_done_in_a_fresh_process(tmp_path: Path) -> None:
    done = python("-c", FRESH, tiny_llama(tmp_path), tmp_path)
    assert done.returncode == 0, done.stderr
    (found,), torch_here = json.loads(done.stdout)
    assert (found["rows"], found["tokens"], found["targets"]) == (3, 3 * 28, 3 * 4)
    assert not torch_here, "who hands out the work must stay small"
    path = tmp_path / "examples.safetensors"
    first, second, _ = unpack_examples(path.read_bytes(), path)
    assert (first.ids[:16] == second.ids[:16]).all() and (first.ids[16:] != second.ids[16:]).any()


def test_what_fails_is_named(tmp_path: Path) -> None:
    done = run("loss_parity", "--model", tmp_path / "nowhere", "--out", tmp_path / "none.json")
    assert done.returncode == 1 and "FAILED prepare" in done.stderr
    assert not (tmp_path / "none.json").exists()
    assert run("against_peers", "--only", "nobody").returncode == 2
