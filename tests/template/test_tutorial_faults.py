"""The tutorials' silent faults that concern templates and labels, each shown to be impossible here."""

from __future__ import annotations

import numpy as np
import pytest

from sapwood.config.sections import DataConfig, TemplateConfig
from sapwood.data.formats import ReadReport, read_conversations
from sapwood.errors import DataError
from sapwood.pack.build import build_pack, pad_pack
from sapwood.prepare.report import prepare
from sapwood.prepare.split import split_eval
from sapwood.template.render import Renderer
from sapwood.template.unrender import unrender
from sapwood.template.view import as_dicts
from sapwood.types import Conversation, RowId
from tests.template.cases import FAMILY, chat, label, real
from tests.template.real_tokenizers import real_tokenizer

QUESTION, ANSWER = "小姐，别的秀女都在求中选。", "嘘——都说许愿说破是不灵的。"


def learnt_ids(renderer, conversation):
    (rendered,) = renderer.render(conversation)
    example = label(rendered, renderer)
    return example, example.ids[example.trained].tolist()


@pytest.mark.parametrize("name", FAMILY)
def test_the_stop_token_of_the_template_is_always_a_target(name):
    """Gemma's <end_of_turn>, Qwen's <|im_end|> (not its padding), Llama's and ChatGLM3's </s>."""
    _, targets = learnt_ids(real(name), chat(QUESTION, ANSWER))
    expected = {"gemma2": 107, "qwen1_5": 151645, "chatglm3": 2, "llama2": 2}
    assert targets[-1] == expected[name]
    assert targets[-1] in real(name).stop_ids


def test_an_answer_that_holds_the_word_model_is_whole():
    """Cutting generated text at its last "model" loses the answer; spans need no such surgery."""
    renderer = real("gemma2")
    answer = "I am a model <end_of_turn>\n<eos> of model\nbehaviour."
    _, targets = learnt_ids(renderer, chat("Who?", answer))
    assert renderer.tokenizer.decode(targets[:-1]) == answer


@pytest.mark.parametrize("name", FAMILY)
def test_training_and_inference_share_one_template(name):
    """A hand-written prompt drifts from the template's whitespace and end."""
    renderer, conversation = real(name), chat(f" {QUESTION}\n", ANSWER)
    example, _ = learnt_ids(renderer, conversation)
    prompt = renderer.tokenizer.apply_chat_template(
        as_dicts(conversation.messages[:1]),
        chat_template=renderer.template,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert example.ids[: len(prompt)].tolist() == prompt
    assert not example.trained[: len(prompt)].any()
    assert example.trained[len(prompt)]


def test_a_system_prompt_for_gemma_2_is_refused_by_row_and_not_lost():
    with pytest.raises(DataError, match=r"data\.json:1.*no system role"):
        real("gemma2").render(chat("q", "a", system="You are Zhen Huan."))


def test_padding_that_is_the_stop_token_takes_no_label_away():
    """With pad = eos, labels masked by id lose every stop token."""
    tokenizer = real_tokenizer("llama2")
    tokenizer.pad_token = tokenizer.eos_token
    try:
        renderer = Renderer(tokenizer, real("llama2").template)
        prepared = prepare([chat("q", "a")], renderer, TemplateConfig(), max_length=64, vocab_rows=32000)
    finally:
        tokenizer.pad_token = None
    (example,) = prepared.examples
    assert example.ids[example.trained][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("name", FAMILY)
def test_nothing_is_cut_to_fit(name):
    """A row that is too long stops the run, and says what it needs."""
    with pytest.raises(DataError, match=r"\[overlong\] 1 of 1 examples have more than 64 tokens"):
        prepare([chat("q", ANSWER * 20)], real(name), TemplateConfig(), max_length=64, vocab_rows=300_000)


@pytest.mark.parametrize("name", ["gemma2", "llama2"])
def test_one_begin_of_text(name):
    """The template writes it, and the tokenizer adds no second one."""
    renderer = real(name)
    (rendered,) = renderer.render(chat("q", "a"))
    assert renderer.tokenizer(rendered.text)["input_ids"][:2] == [renderer.tokenizer.bos_token_id] * 2
    example, _ = learnt_ids(renderer, chat("q", "a"))
    assert example.ids.tolist().count(renderer.tokenizer.bos_token_id) == 1


def test_the_user_and_the_system_are_not_learnt():
    """Loss on everything trains the model to write its user."""
    renderer = real("llama2")
    (rendered,) = renderer.render(chat("q1 user", "a1", "q2 user", "a2", system="persona"))
    example = label(rendered, renderer)
    text = renderer.tokenizer.decode(example.ids[example.trained].tolist())
    assert "user" not in text
    assert "persona" not in text
    assert text.split() == ["a1", "</s>", "a2", "</s>"]


def test_chatglm3_begins_with_its_own_tokens_as_ids():
    """002-7: [gMASK] and sop are tokens of the template, in text and in ids."""
    example, _ = learnt_ids(real("chatglm3"), chat(QUESTION, ANSWER))
    assert example.ids[:3].tolist() == [64790, 64792, 64795]


def test_masks_go_by_place_and_not_by_id():
    """The answer's tokens are learnt even where the prompt has the same ones."""
    renderer = real("qwen1_5")
    example, targets = learnt_ids(renderer, chat("same words", "same words"))
    where = np.flatnonzero(example.ids == targets[-2])
    assert example.trained[where].tolist() == [False, True]


def read(folder, text, name="rows.jsonl", **data):
    (folder / name).write_text(text, encoding="utf-8")
    return list(read_conversations(DataConfig(train=(name,), **data), root=folder))


def test_000_7_instruction_and_input_are_not_glued_together(tmp_path):
    (row,) = read(tmp_path, '{"instruction": "Say it", "input": "小姐", "output": "a"}\n')
    assert row.messages[0].content == "Say it\n小姐"


def test_000_7_a_null_input_is_no_input(tmp_path):
    (row,) = read(tmp_path, '{"instruction": "Say it", "input": null, "output": "a"}\n')
    assert row.messages[0].content == "Say it"


def test_000_12_repeated_prompts_stay_on_one_side_of_the_split(tmp_path):
    lines = [f'{{"instruction": "q{i % 40}", "output": "a{i}"}}' for i in range(160)]
    train, held = split_eval(read(tmp_path, "\n".join(lines)), 0.1, seed=0)
    assert held
    assert not {row.messages[0].content for row in train} & {row.messages[0].content for row in held}


def test_001_1_the_answer_of_qwen_ends_on_its_turn_end_and_never_on_padding():
    renderer = real("qwen1_5")
    _, targets = learnt_ids(renderer, chat(QUESTION, ANSWER))
    assert renderer.tokenizer.pad_token == "<|endoftext|>"
    assert renderer.tokenizer.pad_token_id not in targets
    assert renderer.tokenizer.convert_ids_to_tokens(targets[-1]) == "<|im_end|>"


def test_001_3_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(DataError, match="only a fast tokenizer says which characters"):
        Renderer(Slow())


@pytest.mark.parametrize("name", FAMILY)
def test_001_8_lengths_are_measured_and_reported(name):
    rows = [chat("q", ANSWER * n, index=n) for n in (1, 4)]
    report = prepare(rows, real(name), TemplateConfig(), max_length=512, vocab_rows=300_000).report
    assert report.longest[0][1].index == 4
    assert report.characters_per_token > 0.3


def test_002_1_a_target_that_equals_the_padding_keeps_its_label():
    """Labels go by place: no id is a sentinel."""
    tokenizer = real_tokenizer("qwen1_5")
    before = tokenizer.pad_token
    tokenizer.pad_token = "<|im_end|>"
    try:
        _, targets = learnt_ids(Renderer(tokenizer), chat("q", "a"))
    finally:
        tokenizer.pad_token = before
    assert targets[-1] == 151645


def test_002_4_rows_are_not_padded_to_a_fixed_length():
    """A pack ends on a multiple of 32, and what fills it is never a target."""
    renderer = real("chatglm3")
    examples = [label(renderer.render(chat("q", "a" * n))[0], renderer) for n in (1, 9, 30)]
    pack = pad_pack(build_pack(examples, share_prefixes=False))
    assert len(pack.ids) - sum(map(len, examples)) < 32
    assert pack.targets.tolist() == [id for e in examples for id in e.ids[e.trained].tolist()]


def test_002_6_chatglm3_writes_the_newline_behind_the_role_and_before_the_text():
    text = real("chatglm3").text_of(chat("q", "a", system="S").messages)
    assert text.startswith("[gMASK]sop<|system|>\n S<|user|>\n q")


def test_002_8_rows_with_and_without_an_instruction_live_in_one_file(tmp_path):
    lines = [
        '{"instruction": "Say it", "input": "q", "output": "a"}',
        '{"input": "q", "output": "a"}',
        '{"instruction": null, "input": "q", "output": "a"}',
        '{"instruction": "Say it", "output": "a"}',
    ]
    report = ReadReport()
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    rows = [*read_conversations(DataConfig(train=("rows.jsonl",)), root=tmp_path, report=report)]
    assert [row.messages[0].content for row in rows] == ["Say it\nq", "q", "q", "Say it"]
    assert report.notes() == ["2 rows without an instruction; the input is the prompt"]
    assert report.formats == {"rows.jsonl": "alpaca"}
    with pytest.raises(DataError, match=r"'output' is null · rows\.jsonl:1"):
        read(tmp_path, '{"input": "q", "output": null}\n')


def test_002_9_a_bad_line_has_its_number(tmp_path):
    with pytest.raises(DataError, match=r"rows\.jsonl:2:\d+"):
        read(tmp_path, '{"input": "q", "output": "a"}\n{"input": "q", "outp\n')


def test_003_2_text_with_its_own_begin_of_text_gets_no_second_one():
    renderer = real("llama2")
    row = Conversation(RowId("rows.jsonl", 0, 1), (), text="<s>[INST] q [/INST] a </s>")
    (example,) = prepare(
        unrender([row], renderer, "assistant"), renderer, TemplateConfig(), max_length=64, vocab_rows=32000
    ).examples
    assert example.ids.tolist().count(1) == 1


def test_003_3_rendered_text_trains_its_answers_and_not_its_user():
    renderer = real("llama2")
    text = "<s>[INST] <<SYS>>\npersona\n<</SYS>>\n\nq1 [/INST] a1 </s><s>[INST] q2 [/INST] a2 </s>"
    row = Conversation(RowId("rows.jsonl", 0, 1), (), text=text)
    (example,) = prepare(
        unrender([row], renderer, "assistant"), renderer, TemplateConfig(), max_length=99, vocab_rows=32000
    ).examples
    learnt = renderer.tokenizer.decode(example.ids[example.trained].tolist())
    assert learnt.split() == ["a1", "</s>", "a2", "</s>"]


def test_003_7_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "rows.pkl").write_bytes(b"\x80\x04cposix\nsystem\n.")
    with pytest.raises(DataError, match=r"the file is a Python pickle .* sapwood data convert"):
        list(read_conversations(DataConfig(train=("rows.pkl",)), root=tmp_path))


def test_003_7_a_conversation_of_several_lines_stays_one_row(tmp_path):
    text = "<s>[INST] line one\nline two [/INST] a\nb </s>"
    rows = read(tmp_path, f"{text}\n{text}\n", name="rows.txt")
    assert [row.text for row in rows] == [text, text]


def test_004_4_the_limit_on_length_is_said_and_never_hidden():
    """max_seq_length=None cut at 1,024; here the message has the limit, the need, and both remedies."""
    with pytest.raises(DataError, match=r"more than 1,024 tokens.*pack\.length=\d+.*template\.overlong=drop"):
        prepare(
            [chat("q", ANSWER * 200)], real("llama2"), TemplateConfig(), max_length=1024, vocab_rows=32000
        )
