"""Reading a config: every fault at once, with its line, its reason and the nearest name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sapwood.config.file import (
    MAX_BYTES,
    dump_config,
    field_of,
    flatten,
    load_config,
    parse_config,
    template_yaml,
)
from sapwood.config.names import MEANT, nearest
from sapwood.config.sections import LoraConfig, RunConfig, Section, TrainConfig
from sapwood.errors import ConfigError

Load = Callable[..., RunConfig]
DATA = {"data": {"train": "x"}}


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write a config that names its data, and load it with overrides."""

    def write_and_load(text: str, *overrides: str, data: bool = True) -> RunConfig:
        path = tmp_path / "run.yaml"
        path.write_text(text + ("\ndata: {train: rows.jsonl}\n" if data else ""), encoding="utf-8")
        return load_config(path, overrides)

    return write_and_load


@pytest.fixture
def refuse(load: Load) -> Callable[..., ConfigError]:
    def write_and_fail(text: str, *overrides: str, data: bool = True) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides, data=data)
        return caught.value

    return write_and_fail


def sections() -> dict[str, type[Section]]:
    kinds = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    return {name: k for name, k in kinds.items() if isinstance(k, type) and issubclass(k, Section)}


# --- values -----------------------------------------------------------------------------------------------


def test_defaults_and_values(load: Load) -> None:
    config = load("train: {lr: 3e-4, epochs: 2}\nlora: {targets: [q_proj, v_proj]}\nbase: {model: ./oak}")
    assert config.train == TrainConfig(lr=3e-4, epochs=2.0)
    assert config.lora == LoraConfig(targets=("q_proj", "v_proj"))
    assert config.base.model == "./oak"
    assert config.data.train == ("rows.jsonl",)
    assert config.name is None
    assert config == load(
        "train: {lr: 0.0003, epochs: 2.0}\nlora: {targets: [q_proj, v_proj]}\nbase: {model: ./oak}"
    )


def test_yaml_1_2_has_exponents_and_plain_words(load: Load) -> None:
    config = load("train: {lr: 1e-4}\ndata: {train: [no], system: no}", data=False)
    assert config.train.lr == 1e-4
    assert config.data.system == "no"
    assert config.data.train == ("no",)


@pytest.mark.parametrize(
    ("value", "found"), [("0.1", 0.1), ("0", 0.0), ("7", 7.0), ("dev.jsonl", "dev.jsonl")]
)
def test_eval_is_a_fraction_a_number_or_a_file(value: str, found: Any, load: Load) -> None:
    assert load("", f"data.eval={value}").data.eval == found


def test_a_config_is_frozen(load: Load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load("").train.lr = 1.0  # type: ignore[misc]


def test_an_empty_section_and_an_empty_key_keep_their_defaults(load: Load) -> None:
    assert load("train:\nlora: {}\nname:\n") == load("")
    assert load("train:\n  # lr: 1\n", "train.lr=0.5").train.lr == 0.5


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes("\ufeffdata: {train: Bäume.jsonl}\r\ntrain:\r\n  lr: 0.5\r\n".encode())
    config = load_config(path)
    assert (config.train.lr, config.data.train) == (0.5, ("Bäume.jsonl",))


# --- overrides --------------------------------------------------------------------------------------------


def test_overrides_win_and_the_last_one_wins(load: Load) -> None:
    config = load("train: {lr: 1e-4}", "train.lr=2e-4", "train.lr=3e-4", "lora.targets=[q_proj]", "name=oak")
    assert config.train.lr == 3e-4
    assert config.lora.targets == ("q_proj",)
    assert config.name == "oak"
    assert load("train: {max_steps: 3}", "train.max_steps=").train.max_steps is None
    assert load("train: {epochs: 3}", "train.max_steps=5").train == TrainConfig(max_steps=5)
    assert load("train: {max_steps: 3}", "train.epochs=5").train == TrainConfig(epochs=5)
    assert load("", "train={lr: 1e-3}", "train.epochs=1").train == TrainConfig(lr=1e-3, epochs=1)


def test_without_a_file_overrides_are_the_config() -> None:
    config = load_config(None, ["data.train=a=b.jsonl"])
    assert config == parse_config({"data": {"train": "a=b.jsonl"}})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "not a setting: 'train.lr' · command line · write section.key=value"),
        ("=3", "not a setting: '=3'"),
        ("train.lr=[1", r"not a YAML value: 'train.lr=\[1' · command line"),
        ("train.lr=*x", "undefined alias"),
        ("train.lr=" + "[" * 700, "not a YAML value"),
        ("train.lr=" + "9" * 5000, "not a YAML value.*limit"),
        ("name.x.y=1", "name is not a section · command line name.x.y"),
        ("train.lrr=1", r"unknown key train\.lrr · command line train\.lrr=1 · did you mean train\.lr\?"),
        (
            "train.lr=big",
            r"train\.lr is not valid · command line train\.lr=big · it must be a number, found 'big'",
        ),
    ],
)
def test_overrides_that_are_wrong(override: str, message: str, load: Load) -> None:
    with pytest.raises(ConfigError, match=message):
        load("name: oak", override)


# --- unknown keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "mend"),
    [
        ("train: {learning_rat: 1}", "train.learning_rat", "here it is train.lr"),
        ("train: {qqqq: 1}", "train.qqqq", "valid here: epochs, max_steps, batch_size"),
        ("lr: 1", "lr", "did you mean train.lr?"),
        ("r: 8", "r", "here it is lora.rank"),
        ("load_in_4bit: true", "load_in_4bit", "here it is base.storage: `nf4` or `fp4`"),
        ("base_model: x", "base_model", "here it is base.model"),
        ("lora: {lora_r: 8}", "lora.lora_r", "here it is lora.rank"),
        ("gradient_accumulaton_steps: 8", "gradient_accumulaton_steps", "here it is train.batch_size"),
        ("trust_remote_code: true", "trust_remote_code", "sapwood has no key for it: never: models"),
        ("train.lr: 1", "train.lr", "in a file a section is a level of its own: train: {lr: VALUE}"),
        ("train: {epoch: 1}", "train.epoch", "did you mean train.epochs?"),
        ("trian: {lr: 1}", "trian", "did you mean train?"),
        ("trian:", "trian", "did you mean train?"),
        ("train: {rank: 1}", "train.rank", "did you mean lora.rank?"),
        ("dropuot: 0", "dropuot", "did you mean lora.dropout?"),
        ("zzzzzzzz: 1", "zzzzzzzz", "valid here: version, name, base, data"),
        ("train: {train: {lr: 1}}", "train.train", "did you mean data.train?"),
    ],
)
def test_an_unknown_key_is_told_with_its_line_and_the_nearest_name(
    text: str, key: str, mend: str, refuse: Callable[..., ConfigError]
) -> None:
    (problem,) = refuse(f"# a comment\n\n{text}").problems
    assert problem.what == f"unknown key {key}"
    assert problem.where.endswith("run.yaml:3")
    assert problem.mend.startswith(mend)


def test_the_line_is_that_of_the_key_itself(refuse: Callable[..., ConfigError]) -> None:
    error = refuse("train:\n  lr: 1e-4\n\n  bogus: 1\nlora:\n  rank: x\n")
    assert [(p.what, Path(p.where).name) for p in error.problems] == [
        ("lora.rank is not valid", "run.yaml:6"),
        ("unknown key train.bogus", "run.yaml:4"),
    ]


# --- wrong values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("train.lr=.nan", "finite number"),
        ("train.lr=.inf", "finite number|at most 10"),
        ("data.eval=.nan", "finite number"),
        ("train.lr=0", "it must be more than 0"),
        ("train.lr=11", "it must be at most 10, found 11"),
        ("train.lr='1e-4'", "it must be a number, found '1e-4'"),
        ("train.lr=true", "it must be a number, found true"),
        ("train.lr=" + "9" * 400, "finite number|at most 10"),
        ("train.epochs=[3]", "it must be a number"),
        ("train.batch_size=16.0", "it must be a whole number, found 16.0"),
        ("train.batch_size=true", "it must be a whole number, found true"),
        ("train.batch_size=0", "it must be 1 or more"),
        ("train.seed=4294967296", "it must be less than 4,294,967,296"),
        ("train.seed=-1", "it must be 0 or more, found -1"),
        ("train.max_steps=0", "it must be 1 or more"),
        ("train.schedule=cosin", "inverse-sqrt or constant, found 'cosin'"),
        ("train=5", "it is a section, found 5"),
        ("train=", "it is a section, found nothing"),
        ("lora.dropout=1", "less than 1"),
        (
            "train.gradient_checkpointing=x",
            "it must be auto or offload or true or false or a whole number, found 'x'",
        ),
        ("data.weights=2", "it must be a list, such as .a, b., found 2"),
        ("data.columns=[q]", "it must be pairs, such as {name: value}"),
        ("lora.targets=5", "it must be a text or a list, such as .a, b., found 5"),
        ("lora.targets=[5]", "a text"),
        ("pack.length=15", "it must be 16 or more"),
        ("pack.share_prefixes=1", "it must be true or false, found 1"),
        (
            "base.storage=nf5",
            "it must be auto, fp32, bf16, fp16, gguf, nf4, fp4, int8 or int8-compute",
        ),
        ("base.model=5", "it must be a text, found 5"),
        ("data.system={role}", "found a section: a text that begins with a brace needs quotes"),
        ("data.train=[]", "names no file"),
        ("data.train=['a', ' ']", "names no file"),
        ("data.eval=-0.1", "fraction below 1"),
        ("data.eval=-3", "fraction below 1"),
        ("data.eval=2.5", "fraction below 1"),
        ("data.eval=true", "it must be a number or a text, found true"),
        ("name=a/b", "one word of at most 64 characters"),
        ("name=2024-01-01", "it must be a text"),
        ("track.to=comet", "swanlab"),
        ("data={1: 2, train: x}", "keys should be strings"),
    ],
)
def test_a_wrong_value_is_told_with_key_place_reason_and_help(override: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        load_config(None, ["data.train=x", override])
    key = override.partition("=")[0]
    for problem in caught.value.problems:
        assert "\n" not in str(problem)
        assert problem.what.endswith("is not valid")
        assert problem.what.split()[0] in (key, key.partition(".")[0])
        assert problem.where == f"command line {override}"
        assert problem.mend.startswith(problem.what.split()[0] + ": ")


def test_all_faults_are_told_at_once(refuse: Callable[..., ConfigError]) -> None:
    error = refuse("train: {lr: -1, bogus: 2, epochs: x}\nlora: {rank: 0}\nsave: {keep: 0}")
    assert len(error.problems) == 5
    assert error.exit_code == 2


def test_missing_data_says_what_to_write(refuse: Callable[..., ConfigError]) -> None:
    for text, key in (
        ("name: oak", "data"),
        ("data: {eval: 0}", "data.train"),
        ("", "data"),
        ("data:", "data"),
    ):
        (problem,) = refuse(text, data=False).problems
        assert problem.what == f"{key} is missing"
        assert problem.mend == "add it: data: {train: FILE}"


def test_parse_config_without_a_file_names_its_source() -> None:
    with pytest.raises(ConfigError, match=r"unknown key data\.trian · web form · did you mean data\.train\?"):
        parse_config({"data": {"train": "x", "trian": "y"}}, "web form")


def test_every_name_of_the_tutorials_is_answered() -> None:
    names = json.loads((files("sapwood") / "assets" / "knobs.json").read_text(encoding="utf-8"))
    assert len(names) > 100
    for name, (keys, _) in names.items():
        with pytest.raises(ConfigError) as caught:
            parse_config(
                {"data": {"train": "x"}, "train": {name: 1}} if name == "eval" else {**DATA, name: 1}
            )
        said = next(p.mend for p in caught.value.problems if p.what.startswith("unknown key"))
        assert said.startswith(("here it is ", "did you mean ", "sapwood has no key for it: ")), said
        assert not keys or any(field_of(word.split(".")) for word in re.findall(r"[a-z_.]+", said)), said


def test_every_other_name_leads_to_a_key_that_exists() -> None:
    for key, words in MEANT.items():
        assert field_of(key.split(".")) is not None, key
        assert key in (said := nearest(words.split()[:1], RunConfig)) or "did you mean" in said


def test_a_base_given_as_text_says_what_to_write(refuse: Callable[..., ConfigError]) -> None:
    (problem,) = refuse("base: hf:Qwen/Qwen1.5-0.5B").problems
    assert problem.why == "it is a section, found 'hf:Qwen/Qwen1.5-0.5B'"
    assert problem.mend == "base: {model: hf:Qwen/Qwen1.5-0.5B}"


def test_spaces_beside_the_equals_sign_on_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"no space may stand beside = · write train\.lr=1e-4"):
        load_config(None, ["data.train=x", "train.lr", "=", "1e-4"])


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_a_file_of_data_is_no_config(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="that is a file of data, not a config"):
        load_config(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "line", "why", "mend"),
    [
        ("train:\n  lr: 1e-4\n   epochs: 2", 3, "begin in one column", "'epochs: 2'"),
        ("train:\n    lr: 1e-4\n  epochs: 2", 3, "begin in one column", "'epochs: 2'"),
        ("train:\n\tlr: 1", 2, "a tab stands where only spaces may", "indent with spaces"),
        ('base:\n  model: "C:\\Users\\me"', 2, "a backslash begins an escape", r"model: 'C:\Users\me'"),
        ('base:\n  model: "C:\\models"', 2, "a backslash begins an escape", r"model: 'C:\models'"),
        ("train.lr = 1e-4", 0, "a colon stands between key and value, not =", "write train: {lr: 1e-4}"),
        ("train:\n  lr = 1e-4\n  epochs: 3", 3, "a colon stands between", "write lr: 1e-4"),
        ("name: x\ntrain.lr = 1e-4", 2, "a colon stands between", "write train: {lr: 1e-4}"),
        ("data:\n  train: {file}.jsonl", 2, "begins with a brace", "train: '{file}.jsonl'"),
        ("data:\n  system: {role} you are: kind", 2, "begins with a brace", "system: '{role} you are: kind'"),
        ("data:\n  train: x\n  system: {role}, be kind", 3, "begins with a brace", "'{role}, be kind'"),
        (
            "data:\n  train: x\n  system: {{ role }}, be kind",
            3,
            "begins with a brace",
            "'{{ role }}, be kind'",
        ),
        ("data:\n  train: x\n  system: [role], be kind", 3, "a bracket", "system: '[role], be kind'"),
        ('data:\n  train: x\n  system: "you" are kind', 3, "or a quote", "system: '\"you\" are kind'"),
        ("data:\n  train: [a.jsonl\n  eval: 2", 3, "the bracket that opens in line 2", "close it"),
        ("data:\n  train: @rows.jsonl", 2, "a sign of YAML's own", "train: '@rows.jsonl'"),
        ("data:\n  system: Answer: be kind", 2, "a colon in it needs quotes", "system: 'Answer: be kind'"),
        ("lora:\n  targets: *_proj", 2, "an undefined alias", "targets: '*_proj'"),
        ("name: 'it\ndata: {train: x}", 2, "the quote that opens in line 1 is never closed", "close it"),
        ("data:\n  train:\n  -a\n  - b", 4, "'-a' is neither `key: value` nor `- item`", "a space"),
        ("train:\n  lr:1e-4\n  epochs: 2", 3, "a colon needs a space after it", "write lr: 1e-4"),
    ],
)
def test_a_fault_of_yaml_is_told_in_plain_words(
    text: str, line: int, why: str, mend: str, load: Load
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text, data=False)
    (problem,) = caught.value.problems
    assert why in problem.why
    assert mend in problem.mend
    assert not line or f"run.yaml:{line}" in problem.where


# --- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {lr: 1}\ntrain: {lr: 2}", r"run\.yaml:2:1 · found duplicate key \"train\""),
        ("train:\n  lr: 1\n  lr: 2", r"run\.yaml:3:3 · found duplicate key \"lr\""),
        ("a: &x 1\nb: *x", r"anchors and aliases aren't accepted · .*run\.yaml:1 · write the value out"),
        ("base: &b {model: x}\ntemplate: *b", "anchors and aliases aren't accepted"),
        ("train: [1", r"not valid YAML · .*run\.yaml:\d+:\d+"),
        ("train: \tlr: 1", r"not valid YAML · .*run\.yaml:1:\d+"),
        ("a: *nowhere", "not valid YAML .*undefined alias"),
        ("- 1\n- 2", "the config has no sections · .* · found a list"),
        ("just words", "the config has no sections · .* · found a text"),
        ("a: " + "[" * 18 + "]" * 18, "nested too deep"),
        ("a: " + "[" * 700, "not valid YAML"),
        ("a: !!python/object:os.system x", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML .*limit"),
        ("a: \x01", "not valid YAML"),
    ],
)
def test_files_that_are_no_config(text: str, message: str, load: Load) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(text, data=False)
    assert "run.yaml" in caught.value.problems[0].where
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"config file not found · .*run\.yaml · sapwood init --data FILE writes one"
    ):
        load_config(tmp_path / "run.yaml")
    (tmp_path / "runs.yml").write_text("")
    with pytest.raises(ConfigError, match=r"not found .* did you mean .*runs\.yml\?"):
        load_config(tmp_path / "run.yaml")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config file can't be read .*directory"):
        load_config(tmp_path)
    (tmp_path / "run.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"config file can't be read .*utf-8"):
        load_config(tmp_path / "run.yaml")


def test_a_file_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match=r"config file is too large .* more than 1,000,000 bytes"):
        load_config(path)


# --- writing ----------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)


@settings(max_examples=60, deadline=None)
@example(train="a\x85b", system="树\u2028\r\n no: #", lr=1e-4, targets="all-linear", held_out=0.05)
@given(
    train=TEXT.filter(str.strip),
    system=st.none() | TEXT,
    lr=st.floats(1e-12, 10),
    targets=st.sampled_from(["all-linear", ("q_proj", "v_proj"), r"model\..*\.(q|v)_proj"]),
    held_out=st.sampled_from([0.0, 0.05, 12.0, "dev.jsonl", "no", "1e-4"]),
)
def test_a_dumped_config_reads_back_equal(
    train: str,
    system: str | None,
    lr: float,
    targets: Any,
    held_out: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config = parse_config(
        {
            "data": {"train": [train, "no"], "system": system, "eval": held_out},
            "train": {"lr": lr, "max_steps": 3},
            "lora": {"targets": targets},
            "name": "null",
        }
    )
    text = dump_config(config)
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_config(path) == config
    assert dump_config(load_config(path)) == text


def test_a_dumped_config_keeps_the_order_of_the_sections() -> None:
    text = dump_config(parse_config({"data": {"train": "x"}}))
    heads = [line.partition(":")[0] for line in text.splitlines() if not line.startswith(" ")]
    assert heads == list(RunConfig.model_fields)


@pytest.mark.parametrize(
    ("data", "model"),
    [
        ("rows.jsonl", "builtin:smollm2"),
        ("my rows, [all]: of them #1.json", "hf:Org/Name@main"),
        ("a folder with a long name/" * 8 + "rows.json", "models of mine/" * 12 + "oak.gguf"),
        ("数据.json", "no"),
    ],
)
def test_the_template_reads_back_as_the_defaults(data: str, model: str, tmp_path: Path) -> None:
    path = tmp_path / "sapwood.yaml"
    config = parse_config({"data": {"train": data}, "base": {"model": model}})
    path.write_text(template_yaml(config), encoding="utf-8")
    assert load_config(path) == config


def test_the_template_names_every_key_with_its_help() -> None:
    text = template_yaml(parse_config({"data": {"train": "rows.jsonl"}}))
    for section in sections().values():
        for key, field in section.model_fields.items():
            assert f"{key}: " in text
            assert field.description and " ".join(field.description.split()) in text
    assert "  # system: null" in text


def test_every_key_of_the_template_may_be_deleted(tmp_path: Path) -> None:
    lines = template_yaml(parse_config({"data": {"train": "rows.jsonl"}})).splitlines()
    kept = [line for line in lines if not line.startswith("  ") or line.startswith("  train:")]
    path = tmp_path / "sapwood.yaml"
    path.write_text("\n".join(kept), encoding="utf-8")
    assert load_config(path) == parse_config({"data": {"train": "rows.jsonl"}})


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_patience_needs_held_out_rows() -> None:
    with pytest.raises(ConfigError, match=r"eval\.patience needs held-out rows"):
        load_config(None, ["data.train=x", "data.eval=0", "eval.patience=2"])
