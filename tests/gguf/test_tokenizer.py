from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.engine.ask import asked
from sapwood.engine.process import Setup
from sapwood.errors import ModelError
from sapwood.export.gguf_tokens import SAMPLES, tokenizer_metadata
from sapwood.gguf.file import GgufFile, read_gguf
from sapwood.gguf.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, WORDS, read_tokenizer
from sapwood.serve.found import renderer_of
from tests.base.tiny import CORPUS, tiny_tokenizer
from tests.gguf.tiny_gguf import tiny_gguf
from tests.template.real_tokenizers import real_tokenizer

# What llama.cpp's tokenizer gives for the same file.
SMOLLM2 = {
    "Hello world": [19556, 905],
    "  two  spaces and\ttab\n\nnewlines \n x": [
        *(216, 827, 216, 5600, 284, 197, 15999, 198, 198, 2241, 5110, 3717, 1792),
    ],
    "It's 1987, 42 trees & $3.50 (approx.)": [
        *(
            1589,
            506,
            216,
            33,
            41,
            40,
            39,
            28,
            216,
            36,
            34,
            3417,
            1456,
            1885,
            35,
            30,
            37,
            32,
            365,
            22046,
            2677,
        ),
    ],
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n": [
        1,
        4093,
        198,
        26843,
        2,
        198,
        1,
        520,
        9531,
        198,
    ],
    "def f(x):\n    return x**2  # squared": [
        1604,
        275,
        24,
        104,
        727,
        472,
        1003,
        1792,
        828,
        34,
        216,
        907,
        27402,
    ],
    "①②③ Ⅳ ½ ٣٤": [
        *(
            173,
            235,
            250,
            173,
            235,
            111,
            173,
            235,
            112,
            216,
            173,
            223,
            113,
            216,
            16738,
            216,
            164,
            113,
            164,
            114,
        ),
    ],
    "<|im_end|> <|im_start|>system<repo_name>x<file_sep>": [2, 216, 1, 9690, 3, 104, 5],
    "I'LL we've DON'T 3.14159 10000000": [
        *(57, 23, 16421, 392, 3543, 422, 2154, 23, 68, 216, 35, 30, 33, 36, 33, 37, 41),
        *(216, 33, 32, 32, 32, 32, 32, 32, 32),
    ],
    "trailing  ": [4861, 4966, 256],
    "": [],
}


def test_adapters_of_the_built_in_model_stay_usable(smollm2_spec: Any) -> None:
    """A tokenizer's form is in their fingerprint: written otherwise, it would be another template's."""
    fingerprint = renderer_of(smollm2_spec, "auto", None).fingerprint
    assert fingerprint == "800b3ae65608452d6f1da457685203e773d026854f32ae7fe5a09161182a58e4"


@pytest.mark.parametrize("text", SMOLLM2)
def test_smollm2_ids_equal_llama_cpps(smollm2_spec: Any, text: str) -> None:
    ids = smollm2_spec.tokenizer(text)["input_ids"]
    assert ids == SMOLLM2[text]
    assert smollm2_spec.tokenizer.decode(ids) == text


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path, _ = tiny_gguf("llama", tmp_path_factory.mktemp("gguf") / "m.gguf")
    return read_tokenizer(read_gguf(path))


@pytest.mark.parametrize(
    "text", [*CORPUS, "e\u0301t\u00e9 zq9", "<|im_start|>user\nhi<|im_end|>", "\t 🌳\n\n"]
)
def test_the_file_gives_the_ids_of_the_tokenizer_that_it_was_made_from(tiny: Any, text: str) -> None:
    original = tiny_tokenizer().backend_tokenizer
    assert tiny.tokenizer.encode(text).ids == original.encode(text).ids


def test_names_template_and_stops_come_from_the_file(tiny: Any) -> None:
    assert (tiny.bos, tiny.eos, tiny.pad, tiny.unk) == ("<|endoftext|>", "<|im_end|>", "<|endoftext|>", None)
    assert tiny.stop_ids == (2,)
    assert tiny.chat_template == tiny_tokenizer().chat_template


def tiny_with(tmp_path: Path, **keys: Any) -> Any:
    path, _ = tiny_gguf(
        "llama", tmp_path / "m.gguf", keys={f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    )
    return read_tokenizer(read_gguf(path))


def test_a_turn_end_stops_beside_the_named_eos(tmp_path: Path) -> None:
    assert tiny_with(tmp_path, eos_token_id=0).stop_ids == (0, 2)


def test_llama3s_words_bos_and_whole_word_lookup(tmp_path: Path) -> None:
    tokenizer = tiny_with(tmp_path, pre="llama-bpe", add_bos_token=None).tokenizer
    assert tokenizer.encode("1234 trees").ids[0] == 0  # this family adds BOS unless the file says otherwise
    words = tokenizer.pre_tokenizer.pre_tokenize_str("In 12345 trees don't")
    assert [word for word, _ in words] == ["In", "Ġ", "123", "45", "Ġtrees", "Ġdon", "'t"]


def test_gpt2s_words(tmp_path: Path) -> None:
    tokenizer = tiny_with(tmp_path, pre="gpt-2").tokenizer
    words = tokenizer.pre_tokenizer.pre_tokenize_str("In 12345 trees")
    assert [word for word, _ in words] == ["In", "Ġ12345", "Ġtrees"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": "wordpiece"}, "'wordpiece' isn't supported"),
        ({"model": None}, "'missing' isn't supported"),
        ({"pre": "mystery-9"}, "'mystery-9' isn't supported"),
        ({"pre": None}, "'missing' isn't supported"),
        ({"tokens": None}, "holds no tokenizer"),
        ({"token_type": [1, 1]}, "2 token types for 600"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "appears twice"),
        ({"merges": ["a b zzz"]}, "merge 'a b zzz'"),
        ({"eos_token_id": 600}, "eos_token_id is 600"),
    ],
)
def test_what_would_tokenize_otherwise_is_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny_with(tmp_path, **keys)


# --- rules that cut words, against llama.cpp ---------------------------------------------------------------

MARKS = "नमस्ते दुनिया สวัสดี"
TEXTS = (
    *CORPUS,
    "I'm sure they'LL say it's   12345.67 €, won't they?\n\n\n\tYes - 3 x 10!",
    "camelCase HTTPServer getName()/setName/  a/b\n//c\r\n\r\nx  \n  y \t z   ",
    "héllo wörld, naïve façade; привет, мир! こんにちは世界 안녕하세요 مرحبا 🌳🌲",
    "aB aBaBaBaBaBaBaBaB\n/ a.\n/ b.\n/ c\nIt ends.\nSo.\nYes!\n12 34 12345 67 123\n",
    "if x:\n        return  y\n            z    \n                w      v\n        return",
    "x   y   z   w   v   u   t   s   r   q\n\n    p    o",
    "$x+=1;print(\"%d\")  # 1,234,567 <a href='b'>C</a>",
)
OWN_CLASSES = ("tekken", "gpt-4o", "llama4")  # llama.cpp has no marks among the letters of these


@pytest.fixture(scope="module")
def across() -> dict[str, Any]:
    """Tokens that were merged without a look at words, so that they show where each rule cuts."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=alphabet,
        show_progress=False,
        max_token_length=4,
    )
    tokenizer.train_from_iterator([*TEXTS, MARKS] * 2, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {"tokens": tokens, "merges": [" ".join(pair) for pair in model["merges"]]}


@pytest.mark.parametrize("pre", WORDS)
def test_words_are_cut_as_llama_cpp_cuts_them(pre: str, across: dict[str, Any], tmp_path: Path) -> None:
    keys = {f"tokenizer.ggml.{key}": value for key, value in (across | {"pre": pre}).items()}
    path, _ = tiny_gguf("llama", tmp_path / "m.gguf", keys=keys)
    tokenizer = read_tokenizer(read_gguf(path)).tokenizer
    texts = TEXTS if pre in OWN_CLASSES else (*TEXTS, MARKS)
    with asked(Setup(path, (), 64)) as llama:
        theirs = [llama.tokenize(text) for text in texts]
    assert [tokenizer.encode(text, add_special_tokens=False).ids for text in texts] == theirs


@pytest.fixture(scope="module")
def by_merges() -> dict[str, Any]:
    """A vocabulary of Gemma 4's kind: letters and bytes, and what merges of whole lines make of ``TEXTS``."""
    import json

    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+"), behavior="isolated")
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<turn|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=first, show_progress=False, limit_alphabet=120, max_token_length=8
    )
    tokenizer.train_from_iterator([text.rstrip("🌳🌲") for text in TEXTS] * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "model": "gemma4",
        "tokens": tokens,
        "merges": [" ".join(pair) for pair in model["merges"]],
        "token_type": [CONTROL, CONTROL, CONTROL, UNKNOWN, CONTROL] + [BYTE] * 256 + [NORMAL] * (600 - 261),
        "padding_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "unknown_token_id": 3,
    }


def test_gemma_4s_kind_merges_as_llama_cpp_does(by_merges: dict[str, Any], tmp_path: Path) -> None:
    """Lines apart, characters that no token has as bytes, and the end of a turn as a stop token."""
    assert len(by_merges["tokens"]) == 600
    keys = {f"tokenizer.ggml.{key}": value for key, value in by_merges.items()}
    path, _ = tiny_gguf("llama", tmp_path / "m.gguf", keys=keys)
    read = read_tokenizer(read_gguf(path))
    texts = (*TEXTS, MARKS, "\n\n\nOne\n two\n\n\n\n\nthree \n", " a  b", "🌳 of 木", "<bos>x<turn|>\n")
    with asked(Setup(path, (), 64)) as llama:
        theirs = [llama.tokenize(text) for text in texts]
        assert llama.stops([2, 300], 4) and not llama.stops([2, 300], 3)
        whole = llama.tokenize("a", add_special=True)
    ours = [read.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert ours == theirs
    assert read.stop_ids == (1, 4)
    assert read.tokenizer.encode("a").ids == whole
    assert [read.tokenizer.decode(ids, skip_special_tokens=False) for ids in ours] == list(texts)


def test_a_real_tokenizer_of_gemma_is_written_with_its_merges(tmp_path: Path) -> None:
    """With scores that follow its merges, it is read otherwise."""
    tokenizer = real_tokenizer("gemma2")
    keys = tokenizer_metadata(tokenizer, len(tokenizer))
    assert keys["tokenizer.ggml.model"] == "gemma4"
    path, _ = tiny_gguf("llama", tmp_path / "m.gguf", kind="F16", keys=keys, vocab_size=len(tokenizer))
    with asked(Setup(path, (), 64)) as llama:
        theirs = [llama.tokenize(text) for text in SAMPLES]
    assert [tokenizer(text, add_special_tokens=False)["input_ids"] for text in SAMPLES] == theirs


def test_each_rule_cuts_in_its_own_way(across: dict[str, Any], tmp_path: Path) -> None:
    """Or the test above couldn't tell them apart."""
    ways: dict[tuple[str, ...], Any] = {}
    for pre, rule in WORDS.items():
        tokenizer = tiny_with(tmp_path, pre=pre, **across).tokenizer
        ways[rule] = [tokenizer.encode(text, add_special_tokens=False).ids for text in (*TEXTS, MARKS)]
    alike = [(a, b) for a, b in itertools.combinations(ways, 2) if ways[a] == ways[b]]
    assert alike == []


# --- sentencepiece ----------------------------------------------------------------------------------------

PIECES = [
    "▁",
    *"abcdefo",
    "ab",
    "abc",
    "▁a",
    "▁ab",
    "ca",
    "de",
    "def",
    "▁de",
    "oo",
    "ooo",
    "oooo",
    "fa",
    "bc",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TOKENS = ["<unk>", "<s>", "</s>", "[x]", *BYTES, *PIECES]
SCORES = [0.0] * (4 + 256) + [-float(rank) for rank in range(len(PIECES))]


def sentencepiece(**keys: Any) -> Any:
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.scores": np.array(SCORES, np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3, 4] + [6] * 256 + [1] * len(PIECES)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    return read_tokenizer(GgufFile(Path("m.gguf"), metadata, {}))


def join_best_pairs(text: str) -> list[str]:
    """Sentencepiece's rule, slowly: join the neighbours that make the best-scored token, leftmost first."""
    parts = list(text.replace(" ", "▁"))
    score = dict(zip(TOKENS[260:], SCORES[260:], strict=True))
    while True:
        pairs = [(score.get(a + b, -np.inf), -at) for at, (a, b) in enumerate(itertools.pairwise(parts))]
        if not pairs or max(pairs)[0] == -np.inf:
            return parts
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=" abcdefo", max_size=24))
def test_pairs_join_by_score_as_sentencepiece_does(text: str) -> None:
    tokenizer = sentencepiece(add_space_prefix=False).tokenizer
    assert tokenizer.encode(text, add_special_tokens=False).tokens == join_best_pairs(text)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_bytes_spaces_and_special_tokens() -> None:
    read = sentencepiece()
    encoding = read.tokenizer.encode("ab é[x]")
    # BOS by default; a space before the text by default; é as its two bytes; [x] stands for itself
    assert encoding.tokens == ["<s>", "▁ab", "▁", "<0xC3>", "<0xA9>", "[x]"]
    assert read.tokenizer.decode(encoding.ids) == "ab é[x]"
    both = sentencepiece(add_bos_token=False, add_eos_token=True, add_space_prefix=False).tokenizer
    assert both.encode("ab").tokens == ["ab", "</s>"]
    assert both.encode("ab", "c").tokens == ["ab", "</s>", "c", "</s>"]


def test_scores_must_fit_the_tokens() -> None:
    with pytest.raises(ModelError, match="1 scores"):
        sentencepiece(scores=np.zeros(1))
