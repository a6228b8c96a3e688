"""What a row says is learnt as it is meant, or the row is refused: templates in the manner of real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapwood.config.sections import TemplateConfig
from sapwood.errors import DataError
from sapwood.prepare.pool import _packed, _unpacked
from sapwood.prepare.report import prepare
from sapwood.template.render import Renderer
from sapwood.template.said.strip import strip_control_text
from sapwood.types import Conversation, Message, RowId
from tests.base.tiny import CHATML, tiny_tokenizer
from tests.template.cases import CLOCK, THINKING, TOOLS, chat, learnt, tiny

THINK = ("<think>", "</think>")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather now",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
# As Qwen 2.5: arguments by tojson, whatever they are.
OBJECTS = TOOLS.replace("{{ m.content }}", "{{ m.content or '' }}")
# As DeepSeek V3: a call is written where the content is null, and its arguments are put together with text.
TEXTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and m.content is none %}{% for c in m.tool_calls %}"
    "{{ '<call>' + c.function.name + '\n' + c.function.arguments + '</call>' }}{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As DeepSeek R1's distillations: the prompt opens the block, and answers are shown without their reasoning.
OPENED = (
    "{% for m in messages %}{% set c = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
NEEDS_ID = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'tool' %}"
    "{% if m.tool_call_id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}"
    "{{ m.name }}={{ m.tool_call_id }}: {% endif %}{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SILENT = CHATML.replace(
    "{% for", "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}{% for", 1
)


def rendered_with(template, extra=(), **options):
    tokenizer = tiny(template, extra).tokenizer
    return Renderer(tokenizer, stop_ids=(2,), clock=CLOCK, **options)


def proven(renderer, *rows, **template):
    """Prepared as a run prepares them."""
    rules = TemplateConfig(**template)
    return prepare(rows, renderer, rules, max_length=10_000, vocab_rows=10_000)


def called(arguments, content=None, index=0, tools=(TOOL,)):
    call = {
        "id": "call00000",
        "type": "function",
        "function": {"name": "get_weather", "arguments": arguments},
    }
    messages = (
        Message("user", "Weather in Oslo?"),
        Message("assistant", content, tool_calls=(call,)),
        Message("tool", "4", name="get_weather", tool_call_id="call00000"),
        Message("assistant", "4 degrees."),
    )
    return Conversation(RowId("data.json", index, index + 1), messages, tools)


def problem_of(renderer, *rows, **template):
    with pytest.raises(DataError) as error:
        proven(renderer, *rows, **template)
    (problem,) = error.value.problems
    return problem


# --- calls --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', {"city": "Oslo"}])
def test_arguments_in_a_string_become_the_object_that_the_template_writes(arguments):
    renderer = tiny(OBJECTS)
    first = learnt(renderer, called(arguments))[0]
    assert '"arguments": {"city": "Oslo"}' in first
    assert proven(renderer, called(arguments)).proof.turns == 2


@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', {"city": "Oslo"}])
def test_a_template_that_wants_text_gets_arguments_as_text(arguments):
    assert '<call>get_weather\n{"city": "Oslo"}</call>' in learnt(tiny(TEXTS), called(arguments, tools=()))[0]


def test_arguments_that_are_no_object_stay_as_they_are():
    assert '"arguments": "Oslo"' in learnt(tiny(OBJECTS), called("Oslo"))[0]
    assert '"arguments": "{\\"a\\": NaN}"' in learnt(tiny(OBJECTS), called('{"a": NaN}'))[0]


@pytest.mark.parametrize("arguments", [None, "", " "])
def test_a_call_without_arguments_has_none_whatever_says_so(arguments):
    assert '"arguments": {}' in learnt(tiny(OBJECTS), called(arguments))[0]
    assert "get_weather\n{}</call>" in learnt(tiny(TEXTS), called(arguments, tools=()))[0]


@pytest.mark.parametrize("content", [None, ""])
def test_null_content_beside_calls_is_null_where_the_template_asks_for_it(content):
    renderer = tiny(TEXTS)
    assert learnt(renderer, called('{"city": "Oslo"}', content, tools=()))[0].startswith("<call>")
    assert proven(renderer, called('{"city": "Oslo"}', content, tools=())).proof.turns == 2


def test_null_content_is_no_word_where_the_template_would_print_one():
    assert "None" not in learnt(tiny(TOOLS), called({"city": "Oslo"}))[0]
    assert "None" in tiny(TOOLS)._view(called({"city": "Oslo"})).text(2), "it would"


def test_name_and_tool_call_id_reach_the_template():
    renderer = tiny(NEEDS_ID)
    (rendered, *_) = renderer.render(called({"city": "Oslo"}, tools=()))
    assert "get_weather=call00000: 4" in rendered.text
    proven(renderer, called({"city": "Oslo"}, tools=()))


def test_a_weight_that_the_loss_would_ignore_is_refused():
    with pytest.raises(DataError, match=r"\[turn\] message 2 has the weight 0.5"):
        tiny().render(chat("q", "a", weight=0.5), "all")


def test_batches_for_other_processes_keep_every_field_of_a_message():
    every = Message("assistant", None, "why", ({"name": "f"},), False, "n", "id", 0.5)
    batch = [Conversation(RowId("data.json", 3, 4), (Message("user", "q"), every), (TOOL,), None, 2.5)]
    assert _unpacked(_packed(batch)) == batch


# --- what a template has no place for -----------------------------------------------------------------------


def test_calls_and_tools_that_a_template_drops_are_refused_in_one_message():
    rows = [called({"city": "Oslo"}, "", index=i) for i in range(5)]
    problem = problem_of(tiny(), *rows)
    assert problem.what.startswith("[content-lost] 5 rows")
    assert problem.where == "data.json:1, data.json:2, data.json:3, …"
    assert "calls (5)" in problem.why
    assert "tools (5)" in problem.why


def test_reasoning_that_a_template_drops_is_refused():
    row = chat("2+2?", "4", reasoning="Two and two.")
    assert "reasoning (1)" in problem_of(tiny(), row).why
    inside = chat("2+2?", "<think>\nTwo and two.\n</think>\n\n4")
    dropping = OPENED.replace("assistant\n<think>\n", "assistant\n")
    assert "answers (1)" in problem_of(tiny(dropping, THINK), inside).why


def test_a_system_prompt_that_a_template_drops_is_refused_even_if_a_word_of_the_template_equals_it():
    for system in ("You never say no.", "user"):
        assert "system prompts (1)" in problem_of(tiny(SILENT), chat("q", "a", system=system)).why


def test_mapped_tools_that_a_template_has_no_place_for_are_refused_and_accepted_by_name_only():
    row = Conversation(RowId("data.json", 0, 1), chat("q", "a").messages, (TOOL,))
    assert "tools (1)" in problem_of(tiny(), row).why
    proof = proven(tiny(), row, accept="content-lost").proof
    assert proof.accepted["content-lost"] == {"rows": 1, "first": "data.json:1"}
    assert "content-lost" not in proof.codes


def test_history_without_its_reasoning_is_no_loss():
    messages = (Message("user", "a"), Message("assistant", "b", reasoning="Why b."), *chat("c", "d").messages)
    proven(tiny(THINKING, THINK), Conversation(RowId("data.json", 0, 1), messages))


# --- think tags ---------------------------------------------------------------------------------------------


def test_reasoning_is_rendered_as_the_template_wants_it():
    row = chat("2+2?", "4", reasoning="Two and two.")
    assert learnt(tiny(THINKING, THINK), row) == ["<think>\nTwo and two.\n</think>\n\n4<|im_end|>"]


def test_an_empty_think_block_is_learnt_where_the_template_writes_one_and_nowhere_else():
    assert learnt(tiny(THINKING, THINK), chat("q", "a")) == ["<think>\n\n</think>\n\na<|im_end|>"]
    assert learnt(tiny(CHATML, THINK), chat("q", "a")) == ["a<|im_end|>"]


@pytest.mark.parametrize("content", ["Two.\n</think>\n\n4", "<think>\nTwo.\n</think>\n\n4"])
def test_a_think_tag_that_the_template_takes_apart_is_the_templates_token(content):
    renderer = tiny(THINKING, THINK)
    row = chat("2+2?", content)
    (rendered,) = renderer.render(row)
    own = renderer.tokenizer(rendered.text, add_special_tokens=False)["input_ids"]
    assert renderer.encode(rendered).ids.tolist() == own
    assert proven(renderer, row).proof.control_rows == 0


@pytest.mark.parametrize(
    "content", ["<think>Two.</think>4 <think> 5", "Two.</think>4 <think>", "<think> <think>Two.</think>4"]
)
def test_a_think_tag_that_is_copied_beside_one_that_is_taken_apart_stays_text(content):
    renderer = tiny(THINKING, THINK)
    row = chat("2+2?", content)
    (rendered,) = renderer.render(row)
    ids = renderer.encode(rendered).ids.tolist()
    assert [ids.count(renderer.encoder.control[tag]) for tag in THINK] == [1, 1], rendered.text


def test_a_think_tag_of_a_question_stays_text_though_the_template_knows_the_tag():
    renderer = tiny(THINKING, THINK)
    (rendered,) = renderer.render(chat("What is </think>?", "A tag."))
    count = renderer.encode(rendered).ids.tolist().count(renderer.encoder.control["</think>"])
    assert count == 1, "the answer's own"


def test_think_tags_under_a_copying_template_are_tokens_only_where_they_are_meant():
    row = chat("2+2 </think>?", "<think>\nTwo.\n</think>\n\n4")
    plain, meant = rendered_with(CHATML, THINK), rendered_with(CHATML, THINK, meant=THINK)
    tags = {plain.encoder.control[tag] for tag in THINK}
    found = [
        [id for id in renderer.encode(renderer.render(row)[0]).ids.tolist() if id in tags]
        for renderer in (plain, meant)
    ]
    assert [len(ids) for ids in found] == [0, 2], "that of the question is text all the same"
    assert proven(meant, row).proof.meant == THINK
    assert plain.fingerprint != meant.fingerprint


# --- a block that the prompt opens --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        Message("assistant", "4", reasoning="Two and two."),
        Message("assistant", "<think>\nTwo and two.\n</think>\n\n4"),
        Message("assistant", "Two and two.\n</think>\n\n4"),
    ],
)
def test_reasoning_goes_on_where_the_prompt_opened_the_block(answer):
    renderer = tiny(OPENED, THINK)
    row = Conversation(RowId("data.json", 0, 1), (Message("user", "2+2?"), answer))
    assert learnt(renderer, row) == ["Two and two.\n</think>\n\n4<|im_end|>"]
    (rendered,) = renderer.render(row)
    ids = renderer.encode(rendered).ids.tolist()
    prompt = renderer.prompt_ids(row.messages[:1])
    assert ids[: len(prompt)] == prompt
    assert ids.count(renderer.encoder.control["</think>"]) == 1
    assert proven(renderer, row).proof.turns == 1


def test_control_text_inside_such_reasoning_stays_text():
    renderer = tiny(OPENED, THINK)
    row = chat("2+2?", "4 <|im_end|> 4", reasoning="Two <|im_end|> and <think> two.")
    (rendered,) = renderer.render(row)
    encoded = renderer.encode(rendered)
    assert encoded.held_control
    assert encoded.ids.tolist().count(2) == 2
    proven(renderer, row)


def test_without_reasoning_an_opened_block_is_refused_or_closed_by_name():
    row = chat("2+2?", "4")
    problem = problem_of(tiny(OPENED, THINK), row)
    assert problem.what.startswith("[open-think]")
    assert "template.no_reasoning=close" in problem.mend
    closing = rendered_with(OPENED, THINK, close_thinking=True)
    assert learnt(closing, row) == ["\n</think>\n\n4<|im_end|>"]
    proven(closing, row)


def test_an_opened_block_without_reasoning_in_many_rows_is_one_message():
    """Whichever turn it is: a count, three examples and one mend."""
    thought = (Message("user", "q"), Message("assistant", "a", reasoning="Hm."))
    later = (*thought, Message("user", "q"), Message("assistant", "a"))
    rows = [Conversation(RowId("data.json", i, i + 1), later[2 * (i % 2) :]) for i in range(30)]
    problem = problem_of(tiny(OPENED, THINK), *rows)
    assert problem.what.startswith("[open-think]")
    assert "(30 times)" in problem.what
    assert problem.where == "data.json:1, data.json:2, data.json:3 and 27 more"


# --- rendered text inside messages --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("hi", "hello<|im_end|>"),
        ("hi", "hello</s>\n"),
        ("hi", "hello<eoa>"),
        ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "hello<|im_end|>"),
        ("<s>[INST] hi [/INST]", "hello"),
        ("[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nhi [/INST]", "hello</s>"),
        ("<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n", "hello<end_of_turn>"),
        ("<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>", "hello<|eot_id|>"),
    ],
)
def test_rendered_text_in_messages_is_refused_and_its_mend_makes_turns_of_it(question, answer):
    rows = [chat(question, answer, index=i) for i in range(4)]
    problem = problem_of(tiny(), *rows)
    assert problem.what.startswith("[control-text] 4 rows")
    assert "data.strip_control_text=true" in problem.mend
    mended = [*strip_control_text(rows, tiny().end_texts)]
    assert [m.content for m in mended[0].messages if m.role != "system"] == ["hi", "hello"]
    proven(tiny(), *mended)
    assert proven(tiny(), *rows, accept="control-text").proof.accepted["control-text"]["rows"] == 4


def test_an_answer_that_begins_as_a_text_does_is_refused_if_the_model_has_that_token():
    row = chat("hi", "<s> hello")
    problem = problem_of(tiny(CHATML, ("<s>",)), row)
    assert problem.what.startswith("[control-text] 1 row")
    assert "answers that begin with <s> (1)" in problem.why
    (mended,) = strip_control_text([row], ())
    assert [m.content for m in mended.messages] == ["hi", "hello"]
    proven(tiny(), row)


def test_talk_about_control_tokens_is_no_rendered_text():
    rows = [
        chat("What does [INST] mean in Llama 2?", "It opens a question, as <|im_end|> ends one in ChatML.")
    ]
    assert proven(tiny(), *rows).proof.control_rows == 1
    assert [*strip_control_text(rows, ())] == rows


def test_the_system_prompt_that_a_template_adds_is_known():
    adding = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}"
    assert tiny(adding + CHATML).default_system == "You are kind."
    assert tiny().default_system is None


# --- templates as they are published ------------------------------------------------------------------------


def published(name):
    trl = pytest.importorskip("trl", reason="its package brings chat templates as they are published")
    path = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this version of trl has no {name}.jinja")
    return Renderer(tiny_tokenizer(path.read_text(encoding="utf-8")), stop_ids=(2,), clock=CLOCK)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_5_think", "glm4moe", "gemma4", "lfm2_v2"])
@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', {"city": "Oslo"}])
def test_calls_are_learnt_whole_under_published_templates(name, arguments):
    proven(published(name), called(arguments))


@pytest.mark.parametrize("name", ["cohere", "gemma3", "phi3", "llama3"])
def test_calls_are_refused_under_published_templates_without_a_place_for_them(name):
    with pytest.raises(DataError, match=r"\[(content-lost|template)\]"):
        proven(published(name), called({"city": "Oslo"}))
