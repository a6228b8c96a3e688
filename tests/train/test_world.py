"""Processes agree: on who computes what, on sums to the last bit, on what the first one says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapwood.config.file import load_config, parse_config
from sapwood.errors import ConfigError, LostProcessError
from sapwood.pack.plan import even_packs, plan_for
from sapwood.train.processes.shard import refuse_division
from sapwood.train.processes.world import ALONE, World, divide, join, partners
from tests.crash.work import tiny_config
from tests.several import start

SIZES = st.lists(st.integers(1, 2000), max_size=30)


@given(sizes=SIZES, parts=st.integers(1, 6))
def test_every_pack_is_computed_once_and_loads_are_near_each_other(sizes: list[int], parts: int) -> None:
    shares = divide(sizes, parts)
    assert sorted(index for share in shares for index in share) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_in_lockstep_all_make_as_many_passes() -> None:
    sizes = [5, 9, 3, 8, 2]
    shares = [World(rank, 3).share(sizes, lockstep=True) for rank in range(3)]
    assert {len(share) for share in shares} == {2}
    assert sorted(i for share in shares for i, factor in share if factor) == [0, 1, 2, 3, 4]
    assert [entry for share in shares for entry in share if not entry[1]] == [(4, 0.0)]


def test_one_process_talks_to_nobody() -> None:
    tensor = torch.ones(3)
    ALONE.add_up([tensor])
    assert tensor.tolist() == [1.0, 1.0, 1.0]
    assert (ALONE.totals(1.5, 2), ALONE.any(True), ALONE.tell(b"x")) == ([1.5, 2], True, b"x")
    with ALONE.turn():
        pass
    assert ALONE.share([7, 8]) == [(0, 1.0), (1, 1.0)]
    with join() as world:
        assert world is ALONE


@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=12), processes=st.integers(1, 5))
def test_each_process_has_a_pack_where_rows_allow_it(lengths: list[int], processes: int) -> None:
    rows = [np.arange(i * 100, i * 100 + n, dtype=np.int32) for i, n in enumerate(lengths)]
    packs = plan_for(processes, rows, 64)
    assert sorted(i for pack in packs for i in pack) == list(range(len(rows)))
    alone = even_packs(rows, 64)
    if len(alone) >= processes:
        assert packs == alone, "where there is a pack for each, it is the plan of one process"
    longest = max(lengths)
    if len(packs) < min(processes, len(rows)):
        assert packs == even_packs(rows, longest), "the longest row decides how small a pack can be"


@pytest.mark.parametrize("variables", [{}, {"RANK": "2"}, {"RANK": "one"}, {"RANK": "0", "MASTER_PORT": "x"}])
def test_variables_that_make_no_sense_are_told(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"can't meet .* torchrun"), join():
        pass


def test_a_broken_connection_is_told_from_a_fault_of_a_program() -> None:
    with pytest.raises(LostProcessError, match="another process of this run ended") as caught, partners():
        raise RuntimeError("[/a/gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:1")
    assert caught.value.exit_code == 75
    assert caught.value.problems[0].why.endswith("broke: Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="mat1 and mat2"), partners():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


# --- three real processes ---------------------------------------------------------------------------------


def values(rank: int) -> list[torch.Tensor]:
    """Numbers whose sum depends on its order."""
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(n, generator=generator) * 10.0 ** (3 * rank - 3) for n in (5, 8, 1)]


def agree(folder: str, config: str) -> None:
    """What each process writes down, the first time it can compare with others."""
    from sapwood.prepare.study import study_config
    from sapwood.train.processes.follow import build
    from sapwood.train.processes.shard import held_bytes

    with join() as world:
        tensors = values(world.rank)
        world.add_up(tensors)
        settings = load_config(config)
        spec = study_config(settings).spec
        held: dict[str, int] = {}
        for shard in ("none", "base"):
            train = settings.train.model_copy(update={"shard": shard})
            _, model = build(spec, settings.model_copy(update={"train": train}), world, world.device())
            held[shard] = held_bytes(model)
        found = {
            "sums": [t.view(torch.int32).tolist() for t in tensors],
            "totals": world.totals(0.1 * 10.0**world.rank, 1),
            "any": [world.any(world.rank == 2), world.any(False)],
            "told": world.tell("π".encode() * 1000 if world.leads else b"").decode(),
            "nothing": world.tell(b"").decode(),
            "held": held,
        }
        (Path(folder) / f"{world.rank}.json").write_text(json.dumps(found))


def test_three_processes_agree_to_the_last_bit(tmp_path: Path) -> None:
    from sapwood.config.file import dump_config

    config = tmp_path / "config.yaml"
    config.write_text(dump_config(tiny_config(tmp_path)))
    assert start(agree, 3, tmp_path, str(tmp_path), str(config)).wait() == [0, 0, 0]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    held = [one.pop("held") for one in found]
    assert found[0] == found[1] == found[2]
    wanted = [a + b + c for a, b, c in zip(*map(values, range(3)), strict=True)]
    assert found[0]["sums"] == [t.view(torch.int32).tolist() for t in wanted], "in the order of ranks"
    assert found[0]["totals"] == [0.1 + 1.0 + 10.0, 3]
    assert found[0]["any"] == [True, False]
    assert (found[0]["told"], found[0]["nothing"]) == ("π" * 1000, "")
    assert all(one["base"] <= 0.4 * one["none"] for one in held), held


@pytest.mark.parametrize(
    ("section", "values", "says"),
    [
        ("base", {"storage": "nf4"}, r"a base in nf4 can't be divided · train\.shard"),
        ("base", {"storage": "gguf"}, r"a base in gguf can't be divided"),
        ("lora", {"method": "prefix"}, r"prefix can't be divided"),
    ],
)
def test_what_cannot_be_divided_is_refused_in_several_processes_only(
    section: str, values: dict[str, str], says: str
) -> None:
    tree = {"data": {"train": "x"}, "train": {"shard": "base"}, "base": {"storage": "bf16"}}
    refuse_division(parse_config(tree), World(0, 2))
    config = parse_config({**tree, section: values})
    refuse_division(config, ALONE)
    with pytest.raises(ConfigError, match=says):
        refuse_division(config, World(0, 2))
