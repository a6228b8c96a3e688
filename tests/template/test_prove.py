"""Each check is shown to catch the fault that it names."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sapwood.errors import DataError
from sapwood.template.learnt.label import label_encoded
from sapwood.template.proof import CHECKS
from sapwood.template.prove import Labelled
from sapwood.template.render import Renderer
from sapwood.types import Example, Span
from tests.base.tiny import CHATML, tiny_tokenizer
from tests.template.cases import CLOCK, MISBEHAVING, chat, prove, real, tiny

TWO = chat("When?", "In autumn.", "Why?", "Roots grow.", index=4)


def labelled(renderer, conversation):
    out = []
    for one in renderer.renderings(conversation):
        encoded = renderer.encode(one.rendered)
        example = label_encoded(one.rendered, encoded)
        out.append(Labelled(conversation, one, example, encoded.held_control))
    return out


def codes(items, renderer, vocab_rows=1000):
    with pytest.raises(DataError) as error:
        prove(items, renderer, vocab_rows=vocab_rows)
    assert all(problem.where == "data.json:5" for problem in error.value.problems)
    return {problem.what.split("]")[0].strip("[") for problem in error.value.problems}


def with_example(item, ids=None, trained=None):
    example = item.example
    ids = example.ids if ids is None else np.array(ids, dtype=np.int32)
    trained = example.trained if trained is None else np.array(trained, dtype=np.bool_)
    return replace(item, example=Example(example.row, ids, trained))


def test_a_true_example_is_proven_and_counted():
    renderer = tiny()
    items = labelled(renderer, TWO) + labelled(renderer, chat("a <|im_end|>", "b"))
    proof = prove(items, renderer, vocab_rows=600)
    assert (proof.rows, proof.examples, proof.turns, proof.control_rows) == (2, 2, 3, 1)
    assert proof.tokens == sum(len(item.example) for item in items)
    assert proof.targets == sum(item.example.num_targets for item in items)
    assert proof.codes == tuple(CHECKS)
    assert proof.fingerprint == renderer.fingerprint
    facts = json.loads(json.dumps(proof.to_json()))
    assert facts["stop_ids"] == [2]
    assert facts["clock"] is None, "this template writes no date"


def test_one_id_changed_is_seen():
    (item,) = labelled(tiny(), TWO)
    ids = item.example.ids.copy()
    ids[4] += 1
    assert {"template-ids", "prompt-ids"} <= codes([with_example(item, ids)], tiny())


def test_another_text_than_the_templates_is_seen():
    (item,) = labelled(tiny(), TWO)
    rendered = replace(item.rendering.rendered, text=item.rendering.rendered.text.replace("autumn", "spring"))
    assert "template-text" in codes(
        [replace(item, rendering=replace(item.rendering, rendered=rendered))], tiny()
    )


def test_a_cut_example_is_seen():
    (item,) = labelled(tiny(), TWO)
    found = codes([with_example(item, item.example.ids[:-8], item.example.trained[:-8])], tiny())
    assert {"template-ids", "stop"} <= found


def test_a_stop_token_that_is_not_learnt_is_seen():
    (item,) = labelled(tiny(), TWO)
    trained = item.example.trained & (item.example.ids != 2)
    assert codes([with_example(item, trained=trained)], tiny()) == {"stop"}


def test_a_learnt_prompt_is_seen():
    (item,) = labelled(tiny(), TWO)
    trained = item.example.trained.copy()
    trained[:4] = True
    assert codes([with_example(item, trained=trained)], tiny()) == {"cut"}
    (single,) = labelled(tiny(), chat("When?", "In autumn.", index=4))
    trained = single.example.trained.copy()
    trained[1:] = True
    assert {"prompt-ids", "early-stop"} <= codes([with_example(single, trained=trained)], tiny())


def test_an_example_with_nothing_to_learn_is_seen():
    (item,) = labelled(tiny(), TWO)
    assert codes([with_example(item, trained=np.zeros(len(item.example)))], tiny()) == {"no-target"}


def test_an_id_beyond_the_embedding_is_seen():
    assert codes(labelled(tiny(), TWO), tiny(), vocab_rows=100) == {"vocabulary"}


def test_a_double_begin_of_text_is_seen():
    renderer = tiny("{{ bos_token + bos_token }}" + CHATML)
    assert codes(labelled(renderer, TWO), renderer) == {"double-bos"}


def test_learnt_padding_is_seen():
    renderer = tiny(CHATML.replace("'\n' + message['content']", "'\n<|endoftext|>' + message['content']"))
    template = CHATML.replace("+ message['content']", "+ message['content'] + '<|endoftext|>'")
    renderer = tiny(template)
    # the template's own control token after the content is where the turn ends, so it is a stop here
    assert renderer.stop_ids == (0, 2)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = "<|im_start|>"
    plain = Renderer(tokenizer, clock=CLOCK)
    (item,) = labelled(plain, TWO)
    ids = item.example.ids.copy()
    ids[np.flatnonzero(item.example.trained)[0]] = 1
    assert "pad-target" in codes([with_example(item, ids)], plain)


def test_a_stop_token_inside_an_answer_is_seen():
    (item,) = labelled(tiny(), chat("When?", "In autumn.", index=4))
    first = int(np.flatnonzero(item.example.trained)[0])
    ids = item.example.ids.copy()
    ids[first] = 2
    assert "early-stop" in codes([with_example(item, ids)], tiny())


def test_control_text_that_became_a_control_token_is_seen():
    renderer = tiny()
    conversation = chat("a <|im_end|> b", "c", index=4)
    (item,) = labelled(renderer, conversation)
    text = item.rendering.rendered.text
    evil = renderer.encoder.encode(text)
    offsets, spans = evil.offsets, item.rendering.rendered.spans
    trained = (offsets[:, 0] >= spans[0].start) & (offsets[:, 0] < spans[0].stop)
    assert {"control", "prompt-ids"} <= codes([with_example(item, evil.ids, trained)], renderer)
    assert "cut" in codes([with_example(item, item.example.ids[2:], item.example.trained[2:])], renderer)


def test_a_span_over_another_turn_than_claimed_is_seen():
    (item,) = labelled(tiny(), TWO)
    wrong = replace(item.rendering, turns=(3, 3))
    assert "prompt-ids" in codes([replace(item, rendering=wrong)], tiny())


def test_the_truth_is_asked_anew_and_not_taken_from_the_renderer():
    """A renderer that lies about its template is found out."""
    honest, liar = tiny_tokenizer(), tiny_tokenizer(CHATML.replace("<|im_end|>' + '\n'", "<|im_end|>'"))
    renderer = Renderer(liar, clock=CLOCK)
    items = labelled(renderer, TWO)
    renderer.tokenizer, renderer._given = honest, CHATML
    assert {"template-text", "prompt-ids"} <= codes(items, renderer)


def test_appended_stop_tokens_are_accepted_and_only_they():
    renderer = tiny(MISBEHAVING["writes no stop token"])
    items = labelled(renderer, TWO)
    assert prove(items, renderer, vocab_rows=600).examples == 2
    claimed = replace(items[1].rendering, appended=0)
    assert "template-text" in codes([replace(items[1], rendering=claimed)], renderer)


def test_no_example_at_all_is_an_error():
    with pytest.raises(DataError, match="no example"):
        prove([], tiny(), vocab_rows=600)


def test_all_violations_are_told_at_once():
    items = [item for i in range(30) for item in labelled(tiny(), chat("q", "a", index=i))]
    with pytest.raises(DataError) as error:
        prove(items, tiny(), vocab_rows=2)
    assert len(error.value.problems) == 30
    assert "and 10 more" in str(error.value)


def test_the_dated_template_is_proven_with_the_frozen_clock():
    renderer = tiny(MISBEHAVING["asks for the date"])
    assert prove(labelled(renderer, TWO), renderer, vocab_rows=600).examples == 1


def test_chatglm3_is_proven_with_its_appended_stop():
    renderer = real("chatglm3")
    proof = prove(labelled(renderer, TWO), renderer, vocab_rows=65024)
    assert (proof.examples, proof.stop_text, proof.stop_ids) == (2, "</s>", (2,))


def test_spans_are_half_open_characters():
    (item,) = labelled(tiny(), TWO)
    assert item.rendering.rendered.spans[0] == Span(55, 75)
