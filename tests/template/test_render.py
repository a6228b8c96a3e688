"""Texts, spans and prompts, over templates that behave and templates that don't."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sapwood.errors import DataError
from sapwood.template.render import Renderer
from sapwood.template.view import as_dicts
from sapwood.types import Conversation, Message, RowId
from tests.base.tiny import CHATML, tiny_tokenizer
from tests.template.cases import CLOCK, DATED, MARKED, MISBEHAVING, THINKING, TOOLS, chat, learnt, tiny

TWO = chat("When?", "In autumn.", "Why?", "Roots grow.")


def test_each_answer_is_learnt_with_its_stop_token_and_nothing_after_it():
    (rendered,) = tiny().render(TWO)
    assert learnt(tiny(), TWO) == ["In autumn.<|im_end|>", "Roots grow.<|im_end|>"]
    assert rendered.text.endswith("Roots grow.<|im_end|>\n")


def test_content_is_what_came_from_the_row():
    (rendered,) = tiny().render(chat(" user ", "assistant\n", system="system"))
    assert [rendered.text[s.start : s.stop] for s in rendered.content] == ["system", "user", "assistant"]
    assert rendered.content[0].start == len("<|im_start|>system\n")


def test_train_on_last_learns_the_last_answer_only():
    (rendered,) = tiny().render(TWO, "last")
    assert [rendered.text[s.start : s.stop] for s in rendered.spans] == ["Roots grow.<|im_end|>"]


def test_a_message_overrides_what_is_learnt():
    a, b, c, d = TWO.messages
    first = Conversation(TWO.row, (a, b, c, Message("assistant", d.content, trained=False)))
    (rendered,) = tiny().render(first)
    assert learnt(tiny(), first) == ["In autumn.<|im_end|>"]
    assert "Why" not in rendered.text, "what follows the last learnt turn costs time and teaches nothing"
    both = Conversation(TWO.row, (a, Message("assistant", b.content, trained=True), c, d))
    assert len(tiny().render(both, "last")[0].spans) == 2


@pytest.mark.parametrize(
    ("conversation", "code"),
    [
        (chat("When?"), "no-target"),
        (Conversation(RowId("d", 0, 7), (Message("assistant", "hello"),)), "turn"),
        (
            Conversation(RowId("d", 0, 7), (Message("user", "q", trained=True), Message("assistant", "a"))),
            "turn",
        ),
        (chat("q", "a", trained=False), "no-target"),
    ],
)
def test_rows_without_a_turn_to_learn_are_refused_by_line(conversation, code):
    with pytest.raises(DataError, match=rf"\[{code}\]") as error:
        tiny().render(conversation)
    assert error.value.problems[0].where == str(conversation.row)


# --- templates ---


@pytest.mark.parametrize("name", sorted(set(MISBEHAVING) - {"shows the answers' number"}))
def test_training_text_and_prompts_are_the_templates_own(name):
    renderer = tiny(MISBEHAVING[name])
    conversation = chat("When?", "In autumn.", "Why?", "Roots grow.", system="Be brief.")
    with renderer.frozen_truth():
        for one in renderer.renderings(conversation):
            text = one.rendered.text
            apply = renderer.tokenizer.apply_chat_template
            messages = as_dicts(conversation.messages)
            own = apply(messages[: one.upto], tokenize=False)
            assert text[: len(text) - one.appended] == own
            for span, turn in zip(one.rendered.spans, one.turns, strict=True):
                assert text[: span.start] == apply(
                    messages[:turn], tokenize=False, add_generation_prompt=True
                )
                assert text[span.start : span.stop].endswith(renderer.stop_text)
                prompt = apply(messages[:turn], return_dict=False, add_generation_prompt=True)
                assert renderer.prompt_ids(conversation.messages[:turn]) == prompt
    assert len(learnt(renderer, conversation)) == 2


def test_a_template_that_rewrites_history_gives_one_example_for_each_turn():
    a, b, c, d = TWO.messages
    thought = Message("assistant", b.content, reasoning="Frost kills.")
    conversation = Conversation(TWO.row, (a, thought, c, d))
    first, second = tiny(THINKING).render(conversation)
    assert learnt(tiny(THINKING), conversation)[0] == (
        "<think>\nFrost kills.\n</think>\n\nIn autumn.<|im_end|>"
    )
    assert "Frost" in first.text
    assert "Frost" not in second.text, "inference wouldn't see it any more"


def test_a_turn_that_only_begins_like_its_history_is_not_taken_for_it():
    """The answer "<" begins like the "<think>" that inference would see in its place."""
    assert len(tiny(THINKING).render(chat("a", "<", "b", "c"))) == 2


def test_a_single_turn_of_such_a_template_is_one_example():
    assert len(tiny(THINKING).render(chat("q", "a"))) == 1


def test_reasoning_inside_the_content_is_what_the_template_makes_of_it():
    text = "<think>\nFrost kills.\n</think>\n\nIn autumn."
    assert learnt(tiny(THINKING, ("<think>", "</think>")), chat("When?", text)) == [text + "<|im_end|>"]


def test_control_text_beside_what_a_template_takes_apart_stays_text():
    renderer = tiny(THINKING, ("<think>", "</think>"))
    text = "<think>\nFrost <|im_end|> kills.\n</think>\n\nIn autumn."
    (rendered,) = renderer.render(chat("When?", text))
    (benign,) = renderer.render(chat("When?", text.replace("<|im_end|>", "and ice")))
    ours, theirs = (renderer.encoder.control_ids(renderer.encode(one).ids) for one in (rendered, benign))
    assert ours.tolist() == theirs.tolist()
    assert renderer.encode(rendered).held_control


def test_a_stop_token_is_appended_where_the_template_writes_none():
    renderer = tiny(MISBEHAVING["writes no stop token"])
    renderings = renderer.renderings(TWO)
    assert [one.appended for one in renderings] == [len("<|im_end|>")] * 2
    assert learnt(renderer, TWO) == ["In autumn.<|im_end|>", "Roots grow.<|im_end|>"]
    assert "In autumn.<|im_start|>user" in renderings[1].rendered.text, "history is as inference shows it"


def test_an_always_appended_generation_prompt_is_not_learnt():
    renderer = tiny(MISBEHAVING["always appends a generation prompt"])
    assert learnt(renderer, TWO) == ["In autumn.<|im_end|>", "Roots grow.<|im_end|>"]
    bare = MISBEHAVING["writes no stop token"].replace("{% if add_generation_prompt %}", "{% if true %}")
    assert learnt(tiny(bare), TWO)[-1] == "Roots grow.<|im_end|>"


def test_a_template_whose_prompt_and_answer_disagree_is_refused():
    with pytest.raises(DataError, match=r"\[prompt-text\].*data\.json:1"):
        tiny(MISBEHAVING["shows the answers' number"]).render(TWO)


def test_what_a_template_raises_is_told_with_the_row_and_its_roles():
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system here') }}{% endif %}" + CHATML
    )
    with pytest.raises(DataError, match=r"data\.json:1 · No system here · .*system, user, assistant"):
        tiny(template).render(chat("q", "a", system="s"))
    with pytest.raises(DataError, match="TypeError"):
        tiny(CHATML + "{{ 1 + 'x' if messages | length > 2 }}").render(TWO)


def test_generation_marks_give_the_same_spans_as_prefixes():
    unmarked = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    marked, plain = tiny(MARKED).render(TWO), tiny(unmarked).render(TWO)
    assert marked == plain


def test_marks_that_begin_elsewhere_than_inference_are_not_believed():
    wrong = MARKED.replace("{{ '<|im_start|>' + m.role + '\\n' }}", "").replace(
        "{% generation %}", "{% generation %}<|im_start|>assistant\n"
    )
    wrong = wrong.replace("{% else %}", "{% else %}{{ '<|im_start|>' + m.role + '\\n' }}")
    assert learnt(tiny(wrong), TWO) == ["In autumn.<|im_end|>", "Roots grow.<|im_end|>"]


# --- tools ---

TOOL = {"type": "function", "function": {"name": "rain", "parameters": {"type": "object"}}}


def _tool_call(argument: str, tool=TOOL) -> Conversation:
    call = {"type": "function", "function": {"name": "rain", "arguments": {"where": argument}}}
    messages = (Message("user", "Rain?"), Message("assistant", "", tool_calls=(call,)))
    return Conversation(RowId("data.json", 0, 1), messages, (tool,))


def test_tool_calls_are_learnt():
    (text,) = learnt(tiny(TOOLS), _tool_call("Berlin"))
    assert text == ('<tool_call>{"name": "rain", "arguments": {"where": "Berlin"}}</tool_call><|im_end|>')


def test_control_text_inside_tools_and_calls_stays_text():
    evil = {"type": "function", "function": {"name": "rain", "description": "x<|im_end|>"}}
    conversation = _tool_call("<|im_end|>", evil)
    renderer = tiny(TOOLS)
    (rendered,) = renderer.render(conversation)
    (benign,) = renderer.render(_tool_call("Berlin"))
    count = [(renderer.encode(one).ids == 2).sum() for one in (rendered, benign)]
    assert count[0] == count[1] == 3
    assert rendered.text[rendered.spans[0].start : rendered.spans[0].stop].count("<|im_end|>") == 2


def test_a_tools_key_that_is_spelled_like_a_control_token_is_refused():
    with pytest.raises(DataError, match=r"\[control\] a tool's key"):
        tiny(TOOLS).render(_tool_call("x", {"type": "function", "<|im_end|>": 1}))


# --- the stop token and the fingerprint ---


def test_the_token_that_the_template_writes_after_an_answer_is_a_stop():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    renderer = Renderer(tokenizer, clock=CLOCK)
    assert (renderer.stop_id, renderer.stop_ids, renderer.stop_text) == (2, (0, 2), "<|im_end|>")


def test_a_stop_id_that_the_tokenizer_does_not_know_is_kept_for_generation():
    renderer = Renderer(tiny_tokenizer(), stop_ids=(2, 5000), clock=CLOCK)
    assert renderer.stop_ids == (2, 5000)
    assert learnt(renderer, TWO) == learnt(tiny(), TWO)


def test_without_any_stop_token_the_renderer_says_so():
    tokenizer = tiny_tokenizer(MISBEHAVING["writes no stop token"])
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no stop token is known"):
        Renderer(tokenizer)
    assert Renderer(tokenizer, stop_ids=(0,)).stop_ids == (0,)


def test_the_clock_is_frozen_for_training_prompts_and_proof_alike():
    renderer = tiny(DATED)
    (rendered,) = renderer.render(TWO)
    assert "29 Feb 2024" in rendered.text
    before = renderer.tokenizer.apply_chat_template(as_dicts(TWO.messages), tokenize=False)
    with renderer.frozen_truth():
        truth = renderer.tokenizer.apply_chat_template(as_dicts(TWO.messages), tokenize=False)
    after = renderer.tokenizer.apply_chat_template(as_dicts(TWO.messages), tokenize=False)
    assert truth == rendered.text
    assert "29 Feb 2024" not in before + after, "transformers' own clock goes on"


def test_the_fingerprint_tells_what_would_change_the_ids():
    def make(template=CHATML, stops=(), clock=CLOCK, **tokens):
        tokenizer = tiny_tokenizer(template)
        for key, value in tokens.items():
            setattr(tokenizer, key, value)
        return Renderer(tokenizer, stop_ids=stops, clock=clock).fingerprint

    later = datetime(2030, 1, 1, tzinfo=UTC)
    assert make() == make() == make(clock=later)
    prints = [make(), make(CHATML + " "), make(stops=(0,)), make(DATED), make(DATED, clock=later)]
    prints.append(make(bos_token=None))
    given = Renderer(tiny_tokenizer(None), CHATML, clock=CLOCK).fingerprint
    assert given == make(), "a template that was written down and given back is the same"
    assert len(set(prints)) == len(prints)


def test_a_named_tool_template_is_used_where_there_are_tools():
    tokenizer = tiny_tokenizer({"default": CHATML, "tool_use": TOOLS})
    renderer = Renderer(tokenizer, clock=CLOCK)
    assert '"name": "rain"' in renderer.render(_tool_call("x"))[0].text
    assert renderer.template == CHATML


def test_a_tokenizer_without_a_template_and_a_broken_one_are_refused_at_once():
    with pytest.raises(DataError, match="ships no chat template"):
        Renderer(tiny_tokenizer(None))
    with pytest.raises(DataError, match="template line 2"):
        Renderer(tiny_tokenizer("ok\n{% if %}"))


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(DataError, match="fast tokenizer"):
        Renderer(object())


# --- where rows alike are located by what their first one showed --------------------------------------------


@pytest.mark.parametrize("name", [*MISBEHAVING, "chatml"])
def test_a_renderer_that_has_seen_rows_locates_as_a_fresh_one_does(name):
    template = MISBEHAVING.get(name, CHATML)
    rows = [
        chat("q", "a"),
        chat("assistant", "user"),
        chat("<|im_end|>", "a<|im_end|>"),
        chat("q\n", " a"),
        chat("same", "same"),
        chat("q", "<think>x</think>a"),
        chat("q", "a", "q", "a", system="s"),
        chat("user", "system", "q", "<|im_start|>", system="assistant"),
    ]
    seasoned = Renderer(tiny_tokenizer(template), stop_ids=(2,), clock=CLOCK)

    def found(renderer, row):
        try:
            return renderer.render(row)
        except DataError as error:
            return str(error)

    for row in [*rows, *rows[::-1]]:
        fresh = Renderer(tiny_tokenizer(template), stop_ids=(2,), clock=CLOCK)
        assert found(seasoned, row) == found(fresh, row)
