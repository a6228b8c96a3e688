"""What the table of rows shows of a row."""

from __future__ import annotations

from sapwood.config.sections import TemplateConfig
from sapwood.page.work.rows import RowTable
from sapwood.prepare.rows import Rules, prove_batch
from sapwood.template.render import Renderer
from sapwood.types import Conversation, Message, RowId
from tests.base.tiny import CHATML, tiny_tokenizer

SYSTEM = Message("system", "You are the keeper of an old orchard, and you answer the neighbours.")


def table(*turns: tuple[str, ...], system: bool = True) -> RowTable:
    """Rows of questions and answers in turns."""
    tokenizer = tiny_tokenizer()
    renderer = Renderer(tokenizer, CHATML)
    conversations = [
        Conversation(
            RowId("rows.jsonl", i),
            (
                *((SYSTEM,) if system else ()),
                *(Message("assistant" if k % 2 else "user", text) for k, text in enumerate(texts)),
            ),
        )
        for i, texts in enumerate(turns)
    ]
    proven = prove_batch(conversations, renderer, Rules(TemplateConfig(), 4096, len(tokenizer)))
    assert not proven.problems
    report = {"cut": 0, "max_length": 4096}
    return RowTable(proven.examples, len(turns), tokenizer.backend_tokenizer, renderer.stop_ids, report)


def test_a_system_prompt_that_all_rows_share_is_left_out() -> None:
    rows = table(("What grows here?", "Apples."), ("Is it cold?", "Only at night."))
    assert rows.preview(0) == "What grows here? → Apples."
    assert rows.preview(1) == "Is it cold? → Only at night."


def test_words_that_all_questions_begin_with_stay() -> None:
    rows = table(("How old is it?", "Ninety."), ("How cold is it?", "Very."))
    assert rows.preview(0) == "How old is it? → Ninety."


def test_the_only_row_and_rows_alike_are_shown_whole() -> None:
    for rows in (table(("Hm?", "Yes."), system=False), table(("Hm?", "Yes."), ("Hm?", "No."), system=False)):
        assert "Hm?" in rows.preview(0) and rows.preview(0).endswith("→ Yes.")


def test_a_long_question_is_cut_at_a_word() -> None:
    rows = table(("apple " * 60 + "or pear?", "Pear."), ("苹果还是梨" * 60, "梨"))
    assert rows.preview(0).startswith("…apple apple") and rows.preview(0).endswith("or pear? → Pear.")
    assert rows.preview(1).startswith("…") and rows.preview(1).endswith("苹果还是梨 → 梨")
