"""The proof: examples against the tokenizer's own ``apply_chat_template``, before anything is trained.

Each is compared, except for rows alike (`template.alike`): there the first of each kind and a sample are. It
shares no rendering, no cache and no span with the code that it checks: the truth is asked anew, through
transformers' public call, for each text and each prompt.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sapwood.errors import DataError, Problem
from sapwood.template.counted import Counted
from sapwood.template.kept import Keeping, Lost
from sapwood.template.opened import closing_of
from sapwood.template.proof import CHECKS, COUNTED, VERSION, Failed, Proof
from sapwood.template.render import Renderer, Rendering
from sapwood.template.strip import ENDS, ending, shows_turns
from sapwood.template.view import as_dicts, plain
from sapwood.types import Conversation, Example, RowId

SHOWN = 60  # characters of an example
MAX_PROBLEMS = 1000  # after so many, one more row tells nobody anything


_SHARED = {  # code -> what is wrong, and the mend
    "content-lost": (
        "what they say is not in the text that the chat template writes",
        "choose a template that has a place for it (template.name), or take it out of the rows; "
        "template.accept=content-lost trains without it",
    ),
    "control-text": (
        "messages hold what a chat template writes, which would be learnt as plain text",
        "data.strip_control_text=true takes it out, and makes turns of a conversation inside a message; "
        "template.accept=control-text learns it as text",
    ),
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """An example and where it came from. ``held_control``: its content was spelled like a control token."""

    conversation: Conversation
    rendering: Rendering
    example: Example
    held_control: bool = False


def prove(items: Iterable[Labelled], renderer: Renderer, *, vocab_rows: int) -> Proof:
    """Check every example. Raises DataError with all violations, each naming its row and its code."""
    prover = Prover(renderer, vocab_rows)
    prover.check(list(items))
    return prover.finish()


class Prover:
    """`prove` for a stream: ``check`` batches as they come, then ``finish``.

    Args:
        renderer: the one that made the examples.
        vocab_rows: rows of the model's embedding.
        accept: codes that may fail; the proof counts them, and doesn't claim them.
    """

    def __init__(self, renderer: Renderer, vocab_rows: int, accept: Sequence[str] = ()) -> None:
        self._problems: list[Problem] = []
        self._shared: dict[str, Counted] = {}  # by code, what is told once for all rows
        self._accepted = {code: Failed() for code in accept}
        self._accepted_last: dict[str, RowId] = {}
        self._cut: dict[str, Failed] = {}
        self._renderer = renderer
        self._tokenizer = renderer.tokenizer
        self._vocab_rows = vocab_rows
        self._stops = set(renderer.stop_ids)
        self._counted: Counter[str] = Counter()  # by names of `Proof`'s fields
        self._keeping = Keeping(renderer.encoder.pattern)
        self._ends = (*dict.fromkeys((*renderer.end_texts, *ENDS)),)

    @property
    def problems(self) -> list[Problem]:
        """What is wrong so far; a fault that rows share is one problem."""
        shared = [found.problem(code, *_SHARED[code]) for code, found in self._shared.items()]
        return [*shared, *self._problems]

    def check(self, items: Sequence[Labelled]) -> None:
        """Check a batch, all examples of a row in one; what is wrong is added to ``problems``."""
        if not items:
            return
        self._counted["rows"] += len({item.conversation.row for item in items})
        self._counted["control_rows"] += len({item.conversation.row for item in items if item.held_control})
        texts = [item.rendering.rendered.text for item in items]
        own = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        for item, ids, truth, prompts in zip(items, own, *self._truth(items), strict=True):
            self._check_ids(item, truth, ids)
            self._check_kept(item)
            self._check_contents(item)
            if item.conversation.text is not None:
                self._check_given(item, item.conversation.text)
            if item.rendering.whole:
                self._check_whole(item, prompts)
            else:
                self._check_turns(item, prompts)
            self._count(item)

    def finish(self) -> Proof:
        """The proof. Raises DataError where anything was wrong, or nothing was there."""
        if self.problems:
            raise DataError(self.problems)
        failed = {**self._accepted}
        for code, found in self._cut.items():
            failed[code] = failed[code].plus(found) if code in failed else found
        if not self._counted["examples"]:
            raise DataError("[no-target] there is no example to train on", mend="add rows with answers")
        return Proof(
            version=VERSION,
            codes=tuple(code for code in CHECKS if code not in failed or not failed[code].rows),
            **{name: self._counted[name] for name in COUNTED},
            fingerprint=self._renderer.fingerprint,
            stop_ids=self._renderer.stop_ids,
            stop_text=self._renderer.stop_text,
            clock=self._renderer.clock.isoformat() if self._renderer.tells_time else None,
            meant=self._renderer.meant,
            accepted={code: found.to_json() for code, found in failed.items()},
        )

    def state(self) -> dict[str, Any]:
        """What was counted, as JSON data; another process's Prover takes it in by `absorb`."""
        failed = {"accepted": self._accepted, "cut": self._cut}
        told = {name: {c: dataclasses.asdict(f) for c, f in found.items()} for name, found in failed.items()}
        return {"count": self._counted, **told}

    def absorb(self, state: dict[str, Any]) -> None:
        self._counted.update(state["count"])
        for own, name in ((self._accepted, "accepted"), (self._cut, "cut")):
            for code, fields in state[name].items():
                found = Failed.from_fields(fields)
                own[code] = own[code].plus(found) if code in own else found

    def count_alike(self, rows: int, turns: int, tokens: int, targets: int) -> None:
        """Examples made of parts, one a row: their shape was proven, with a sample of those of its kind."""
        counted = {"alike": rows, "rows": rows, "examples": rows}
        self._counted.update(counted | {"turns": turns, "tokens": tokens, "targets": targets})

    def note_cut(self, row: RowId, *, inside_answer: bool) -> None:
        """A proven example that is trained without its end, as the config says: what it can't claim."""
        for code in ("cut", "stop") if inside_answer else ("cut",):
            self._cut[code] = self._cut.get(code, Failed()).plus(Failed(1, row))

    # --- the truth ------------------------------------------------------------------------------------------

    def _truth(self, items: Sequence[Labelled]) -> tuple[list[str], list[list[list[int]]]]:
        """For each item the template's text, and for each of its trained turns the ids of its prompt."""
        texts = [item.rendering.rendered.text for item in items]  # a document's is nobody else's
        prompts: list[list[list[int]]] = [[] for _ in items]
        for tools, members in _by_tools(items):
            fitted = {i: self._renderer.fitted(items[i].conversation) for i in members}
            chats = {i: as_dicts(one.messages) for i, one in fitted.items()}
            asked = [(i, turn) for i in members for turn in items[i].rendering.turns]
            with self._renderer.frozen_truth(tools) as template:
                known: dict[str, Any] = {"tools": tools or None, "chat_template": template}
                whole = [chats[i][: items[i].rendering.upto] for i in members]
                for i, text in zip(members, self._apply(whole, tokenize=False, **known), strict=True):
                    texts[i] = text
                known |= {"tokenize": True, "return_dict": False, "add_generation_prompt": True}
                before = [chats[i][:turn] for i, turn in asked]
                for (i, _), ids in zip(asked, self._apply(before, **known), strict=True):
                    prompts[i].append(ids)
        return texts, prompts

    def _apply(self, chats: list[Any], **options: Any) -> list[Any]:
        return self._tokenizer.apply_chat_template(chats, **options)

    # --- the checks -----------------------------------------------------------------------------------------

    def _check_ids(self, item: Labelled, truth: str, own: list[int]) -> None:
        text, ids = item.rendering.rendered.text, item.example.ids
        body = text[: len(text) - item.rendering.appended]
        if item.rendering.opened:
            self._check_opened(item, body, truth)
        elif body != truth and not (item.rendering.appended and truth.startswith(body)):
            self._add(item, "template-text", f"the template writes {truth[-60:]!r}, not {body[-60:]!r}")
        if item.held_control:
            self._check_control(item, own)
        elif len(own) != len(ids) or not np.array_equal(ids, own):
            self._add(item, "template-ids", f"the tokenizer gives {len(own)} ids, training has {len(ids)}")
        bos = self._tokenizer.bos_token_id
        if bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos:
            self._add(item, "double-bos", "the text begins with two begin-of-text tokens")
        if len(ids) and int(ids.max()) >= self._vocab_rows:
            self._add(
                item, "vocabulary", f"id {int(ids.max())}, but the embedding has {self._vocab_rows} rows"
            )

    def _check_opened(self, item: Labelled, body: str, truth: str) -> None:
        """Where the prompt opens a block: the template's text, and that block with the row's reasoning."""
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
        """Such a row's ids can't be the tokenizer's, but they spell the same text, with fewer controls."""
        decode = self._tokenizer.decode
        if _bare(decode(item.example.ids.tolist())) != _bare(decode(own)):
            self._add(item, "cut", "the ids don't spell the text")
        control = self._renderer.encoder.control_ids
        ours, theirs = control(item.example.ids), control(np.array(own, dtype=np.int32))
        if len(ours) > len(theirs) or np.array_equal(ours, theirs):
            self._add(item, "control", "control text of the row became a control token")

    def _check_kept(self, item: Labelled) -> None:
        """What the row says is in the text that is trained."""
        rendering = item.rendering
        lost = self._keeping.lost(
            item.conversation, rendering.rendered, rendering.upto, rendering.turns, rendering.whole
        )
        if lost:
            self._add_shared(item, "content-lost", lost)

    def _check_contents(self, item: Labelled) -> None:
        """No message is a rendered conversation, and no answer ends with a stop token in plain text."""
        found: list[Lost] = []
        for message in item.conversation.messages[: item.rendering.upto]:
            content = message.text
            if (mark := shows_turns(content)) is not None:
                found.append(Lost(f"{mark} in a message", content))
            elif message.role == "assistant" and (mark := ending(content, self._ends)) is not None:
                is_text = item.held_control or mark not in self._renderer.encoder.control
                found += [Lost(f"answers that end with {mark}", content[-SHOWN:])] * is_text
        if found:
            self._add_shared(item, "control-text", found)

    def _add_shared(self, item: Labelled, code: str, found: Sequence[Lost]) -> None:
        row = item.conversation.row
        if code in self._accepted:
            if self._accepted_last.get(code) != row:  # several examples of one row count once
                self._accepted[code] = self._accepted[code].plus(Failed(1, row))
                self._accepted_last[code] = row
        else:
            example = f"for instance {found[0].text[:SHOWN]!r}"
            self._shared.setdefault(code, Counted()).add(row, {one.kind for one in found}, example)

    def _check_given(self, item: Labelled, given: str) -> None:
        """Text that came rendered is what is trained, but for blanks at the edges of messages."""
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
        """All is learnt up to a stop token, and each prompt of it is the one that inference sends."""
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

    def _check_turns(self, item: Labelled, prompts: Sequence[Sequence[int]]) -> None:
        ids, trained = item.example.ids, item.example.trained
        edges = np.flatnonzero(np.diff(trained, prepend=False, append=False))
        runs = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
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
            if not np.array_equal(ids[:start], prompt):
                self._add(item, "prompt-ids", f"turn {turn + 1}: inference sends other ids before the answer")
            self._check_targets(item, turn, ids[start:stop].tolist())

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

    def _count(self, item: Labelled) -> None:
        turns, example = len(item.rendering.turns), item.example
        counted = {"examples": 1, "turns": turns, "tokens": len(example), "targets": example.num_targets}
        self._counted.update(counted)

    def _add(self, item: Labelled, code: str, why: str) -> None:
        self.fault(item.conversation.row, code, why)

    def fault(self, row: RowId, code: str, why: str, mend: str = "") -> None:
        """A check that failed: a problem, or one more row of a code that is accepted."""
        if code in self._accepted:
            self._accepted[code] = self._accepted[code].plus(Failed(1, row))
        else:
            self._problems.append(Problem(f"[{code}] not so: {CHECKS[code]}", str(row), why, mend))


def _by_tools(items: Sequence[Labelled]) -> list[tuple[Any, list[int]]]:
    """Indices of the items that share their tools: a batch has one list of them."""
    groups: list[tuple[Any, list[int]]] = []
    for i, item in enumerate(items):
        if not item.conversation.messages:
            continue
        tools = plain(item.conversation.tools)
        for known, members in groups:
            if known == tools:
                members.append(i)
                break
        else:
            groups.append((tools, [i]))
    return groups


def _bare(text: str) -> str:
    """Text without blanks: decoding may move them around control tokens."""
    return "".join(text.split())
