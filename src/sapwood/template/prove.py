"""The proof: examples against the tokenizer's own ``apply_chat_template``, before anything is trained.

Every example of every row is compared, by itself. `template.truth` asks for what it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import DataError, Problem
from sapwood.template.proof import CHECKS, COUNTED, VERSION, Failed, Proof, ProofTally
from sapwood.template.render import Renderer, Rendering
from sapwood.template.said.kept import Keeping, Lost
from sapwood.template.said.opened import closing_of
from sapwood.template.said.shared import Shared
from sapwood.template.said.strip import ENDS, spelled_out
from sapwood.template.truth import Truth
from sapwood.types import Conversation, Example, RowId

Fault = tuple[str, str]  # the code of a check, and why it fails
SHOWN = 60  # characters of an example
MAX_PROBLEMS = 20_000  # after so many, one more row tells nobody anything


@dataclass(frozen=True, slots=True)
class Labelled:
    """An example and where it came from. ``held_control``: its content was spelled like a control token."""

    conversation: Conversation
    rendering: Rendering
    example: Example
    held_control: bool = False


class Prover:
    """Compares examples with the truth, and counts the comparisons in ``tally``.

    Args:
        renderer: the one that made the examples.
        vocab_rows: rows of the model's embedding.
        accept: codes that may fail; the proof counts them, and doesn't claim them.
    """

    def __init__(self, renderer: Renderer, vocab_rows: int, accept: Sequence[str] = ()) -> None:
        self.tally = ProofTally(accepted={code: Failed() for code in accept})
        self._faults: list[Fault] = []
        self._renderer = renderer
        self._tokenizer = renderer.tokenizer
        self._vocab_rows = vocab_rows
        self._stops = set(renderer.stop_ids)
        self._keeping = Keeping(renderer.encoder.pattern)
        self._ends = (*dict.fromkeys((*renderer.end_texts, *ENDS)),)
        self._accepted_last: dict[str, RowId] = {}

    def check(self, item: Labelled, truth: Truth) -> list[Fault]:
        """What is wrong with an example, codes that may fail included. Counts nothing."""
        self._faults = []
        self._check_ids(item, truth.text, truth.ids)
        if item.conversation.text is not None:
            self._check_given(item, item.conversation.text)
        if item.rendering.whole:
            self._check_whole(item, truth.prompts)
        else:
            self._check_turns(item, truth.prompts)
        return self._faults

    def check_said(self, item: Labelled) -> None:
        """Check that the text holds all that the row says, and that the row holds nothing that templates
        write. Faults are counted."""
        rendering = item.rendering
        lost = self._keeping.lost(
            item.conversation, rendering.rendered, rendering.upto, rendering.turns, rendering.whole
        )
        self._share(item.conversation.row, "content-lost", lost)
        self._share(item.conversation.row, "control-text", self._rendered_text(item))

    def _rendered_text(self, item: Labelled) -> list[Lost]:
        """Messages that are a rendered conversation, and answers with control text at their edges."""
        control = self._renderer.encoder.control
        known = {} if item.held_control else control  # a token that the row means is no text
        messages = item.conversation.messages[: item.rendering.upto]
        found = spelled_out(messages, self._ends, control if item.held_control else ())
        return [Lost(kind, text) for kind, mark, text in found if mark not in known]

    def _share(self, row: RowId, code: str, found: Sequence[Lost]) -> None:
        if not found:
            return
        if code not in self.tally.accepted:
            kinds = {one.kind for one in found}
            self.tally.shared.setdefault(code, Shared()).add(row, kinds, found[0].text[:SHOWN])
        elif self._accepted_last.get(code) != row:  # several examples of one row count once
            self.tally.accepted[code] = self.tally.accepted[code].plus(Failed(1, row))
            self._accepted_last[code] = row

    def fault(self, row: RowId, fault: Fault) -> list[Problem]:
        """Note a check that failed: as a problem, or as one more row of a code that is accepted."""
        code, why = fault
        if code in self.tally.accepted:
            self.tally.accepted[code] = self.tally.accepted[code].plus(Failed(1, row))
            return []
        return [Problem(f"[{code}] this check failed: {CHECKS[code]}", str(row), why)]

    def count(self, items: Sequence[Labelled]) -> None:
        """Count examples that were checked. All examples of a row come in one call."""
        counted = self.tally.counted
        counted["rows"] += len({item.conversation.row for item in items})
        counted["control_rows"] += len({item.conversation.row for item in items if item.held_control})
        counted["examples"] += len(items)
        counted["turns"] += sum(len(item.rendering.turns) for item in items)
        counted["tokens"] += sum(len(item.example) for item in items)
        counted["targets"] += sum(int(np.count_nonzero(item.example.trained)) for item in items)

    def note_cut(self, row: RowId, *, inside_answer: bool) -> None:
        """Note a proven example that is cut, as the config says: it can't claim the checks of an answer's
        end."""
        cut = self.tally.cut
        for code in ("cut", "stop") if inside_answer else ("cut",):
            cut[code] = cut.get(code, Failed()).plus(Failed(1, row))

    # --- the checks -----------------------------------------------------------------------------------------

    def _check_ids(self, item: Labelled, truth: str, own: list[int]) -> None:
        text, ids = item.rendering.rendered.text, item.example.ids.tolist()
        body = text[: len(text) - item.rendering.appended]
        if item.rendering.opened:
            self._check_opened(item, body, truth)
        elif body != truth and not (item.rendering.appended and truth.startswith(body)):
            self._add(item, "template-text", f"the template writes {truth[-60:]!r}, not {body[-60:]!r}")
        if item.held_control:
            self._check_control(item, own)
        elif ids != own:
            self._add(item, "template-ids", f"the tokenizer gives {len(own)} ids, training has {len(ids)}")
        bos = self._tokenizer.bos_token_id
        if bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos:
            self._add(item, "double-bos", "the text begins with two begin-of-text tokens")
        if max(ids, default=0) >= self._vocab_rows:
            self._add(item, "vocabulary", f"id {max(ids)}, but the embedding has {self._vocab_rows} rows")

    def _check_opened(self, item: Labelled, body: str, truth: str) -> None:
        """Check a row whose prompt opens a block: its text is the template's, and that block with the
        reasoning."""
        (span,), opening = item.rendering.rendered.spans, item.rendering.opened
        prompt, answer = body[: span.start], body[span.start :]
        shared = prompt.removesuffix(opening)
        message = item.conversation.messages[item.rendering.turns[0]]
        thought, found, rest = answer.rpartition(closing_of(opening) or "")
        own = message.reasoning
        if own is None:
            own = message.text.rpartition(found)[0].strip().removeprefix(opening.strip())
        written = truth[len(shared) :]
        right = found and truth.startswith(shared) and prompt.endswith(opening)
        if not right or _bare(thought) != _bare(own) or rest.lstrip() != written.lstrip():
            self._add(item, "template-text", f"the template writes {written[-60:]!r}, not {rest[-60:]!r}")

    def _check_control(self, item: Labelled, own: list[int]) -> None:
        """Check a row with control text in its content. Its ids can't be the tokenizer's. They must spell the
        same text, with fewer control tokens."""
        decode = self._tokenizer.decode
        if _bare(decode(item.example.ids.tolist())) != _bare(decode(own)):
            self._add(item, "cut", "the ids don't spell the text")
        control = self._renderer.encoder.control_ids
        ours, theirs = control(item.example.ids), control(np.array(own, dtype=np.int32))
        if len(ours) > len(theirs) or np.array_equal(ours, theirs):
            self._add(item, "control", "control text of the row became a control token")

    def _check_given(self, item: Labelled, given: str) -> None:
        """Check that text which came rendered is what is trained, apart from blanks at the edges of
        messages."""
        bos = self._tokenizer.bos_token
        body, text = given.strip(), item.rendering.rendered.text
        if bos and body.startswith(bos):
            body = body.removeprefix(bos).lstrip()
            if body.startswith(bos) or not item.conversation.messages:
                self._add(item, "double-bos", f"the data has {bos} where one more is written; one is trained")
            while body.startswith(bos):
                body = body.removeprefix(bos).lstrip()
        own = text[: len(text) - item.rendering.appended].removeprefix(bos or "")
        body, text, own = _bare(body), _bare(text.removeprefix(bos or "")), _bare(own)
        stop = _bare(self._renderer.stop_text)
        ends_here = item.rendering.upto == len(item.conversation.messages)
        if body in (text, own) or not item.conversation.messages or (not ends_here and body.startswith(own)):
            return
        if body + stop == text:
            self._add(item, "missing-end", f"the data's text lacks {stop}; the template's is trained")
        else:
            at = next((i for i, (a, b) in enumerate(zip(body, text, strict=False)) if a != b), 0)
            why = f"the data's text reads {body[at : at + 60]!r}, the template writes {text[at : at + 60]!r}"
            self._add(item, "template-text", why)

    def _check_whole(self, item: Labelled, prompts: Sequence[Sequence[int]]) -> None:
        """Check that each answer is learnt up to a stop token, and that its prompt is what inference
        sends."""
        ids, trained = item.example.ids, item.example.trained
        count = int(trained.sum())
        if not count:
            self._add(item, "no-target", "no token is to be learnt")
            return
        if trained[0] or not trained[1 : count + 1].all():
            self._add(item, "cut", "not all of the text is marked")
        if not item.held_control:
            for turn, prompt in zip(item.rendering.turns, prompts, strict=True):
                if not np.array_equal(ids[: len(prompt)], prompt):
                    self._add(item, "prompt-ids", f"turn {turn + 1}: inference sends other ids before it")
        if int(ids[count]) not in self._stops:
            self._add(item, "stop", f"the text ends with {self._name(int(ids[count]))}")
        pad = self._tokenizer.pad_token_id
        if pad is not None and pad not in self._stops and pad in ids[1 : count + 1]:
            self._add(item, "pad-target", "the text would teach the padding token")

    def _name(self, id: int) -> str:
        return repr(self._tokenizer.convert_ids_to_tokens(id))

    def _check_turns(self, item: Labelled, prompts: Sequence[list[int]]) -> None:
        ids, runs = item.example.ids.tolist(), _runs(item.example.trained)
        if not runs:
            self._add(item, "no-target", "no token is to be learnt")
            return
        if len(runs) != len(item.rendering.turns):
            self._add(
                item, "cut", f"{len(item.rendering.turns)} turns are to be learnt, {len(runs)} are marked"
            )
            return
        for (start, stop), turn, prompt in zip(runs, item.rendering.turns, prompts, strict=True):
            if item.held_control:
                conversation = item.conversation
                prompt = self._renderer.prompt_ids(conversation.messages[:turn], conversation.tools)
            if ids[:start] != prompt:
                self._add(item, "prompt-ids", f"turn {turn + 1}: inference sends other ids before the answer")
            self._check_targets(item, turn, ids[start:stop])

    def _check_targets(self, item: Labelled, turn: int, targets: list[int]) -> None:
        if targets[-1] not in self._stops:
            name = self._tokenizer.convert_ids_to_tokens(targets[-1])
            self._add(
                item, "stop", f"turn {turn + 1} ends with {name!r}: the model would never learn to stop"
            )
        if self._stops.intersection(targets[:-1]):
            self._add(item, "early-stop", f"turn {turn + 1} holds a stop token before its end")
        pad = self._tokenizer.pad_token_id
        if pad is not None and pad not in self._stops and pad in targets:
            self._add(item, "pad-target", f"turn {turn + 1} would teach the padding token")

    def _add(self, item: Labelled, code: str, why: str) -> None:
        self._faults.append((code, why))


def proof_of(tally: ProofTally, renderer: Renderer) -> Proof:
    """The proof that the counts amount to. Raises DataError if nothing was there."""
    failed = tally.failed
    if not tally.counted["examples"]:
        raise DataError("[no-target] there is no example to train on", mend="add rows with answers")
    return Proof(
        version=VERSION,
        codes=tuple(code for code in CHECKS if code not in failed or not failed[code].rows),
        **{name: tally.counted[name] for name in COUNTED},
        fingerprint=renderer.fingerprint,
        stop_ids=renderer.stop_ids,
        stop_text=renderer.stop_text,
        clock=renderer.clock.isoformat() if renderer.tells_time else None,
        meant=renderer.meant,
        accepted={code: found.to_json() for code, found in failed.items()},
    )


def _runs(trained: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where each run of trained tokens starts and stops. One row is short: numpy's calls would cost more."""
    flags, runs, stop = trained.tobytes(), list[tuple[int, int]](), 0
    while (start := flags.find(1, stop)) >= 0:
        stop = flags.find(0, start)
        stop = len(flags) if stop < 0 else stop
        runs.append((start, stop))
    return runs


def _bare(text: str) -> str:
    """Text without blanks: decoding may move them around control tokens."""
    return "".join(text.split())
