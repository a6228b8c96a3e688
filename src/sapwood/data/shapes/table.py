"""The shapes that rows come in. A new shape is one entry here: `sapwood check`, docs/data.md and the tests
all read this table."""

from __future__ import annotations

from itertools import product

from sapwood.data.shapes.calling import read_calling
from sapwood.data.shapes.glaive import unfold_dialogue
from sapwood.data.shapes.names import ANSWERS, PROMPTS, TEXT
from sapwood.data.shapes.pairs import read_pair
from sapwood.data.shapes.record import Record
from sapwood.data.shapes.shape import Shape
from sapwood.data.shapes.tree import unfold_tree
from sapwood.data.shapes.turns import read_turns
from sapwood.types import Message


def _no_turns(record: Record, keys: tuple[str, ...]) -> list[Message]:
    """If a template rendered the text, the template takes it apart again."""
    return []


_NAMED = (
    Shape(
        "alpaca",
        (("instruction", "output"),),
        read_pair,
        "Stanford Alpaca, LLaMA-Factory, the Datawhale tutorials",
        (
            "instruction, a line break and input are the prompt; output is the answer",
            "instruction、换行、input 组成提示；output 为回答",
        ),
        '{"instruction": "Translate into German:", "input": "tree", "output": "Baum"}',
    ),
    Shape(
        "dolly",
        (("instruction", "response"),),
        read_pair,
        "Databricks Dolly",
        (
            "instruction, a line break and context are the prompt; response is the answer",
            "instruction、换行、context 组成提示；response 为回答",
        ),
        '{"instruction": "What lives in it?", "context": "A pond.", "response": "Frogs", "category": "qa"}',
    ),
    Shape(
        "input-output",
        (("input", "output"),),
        read_pair,
        "many tables",
        ("input is the prompt, output the answer", "input 为提示，output 为回答"),
        '{"input": "2+2?", "output": "4"}',
    ),
    Shape(
        "firefly",
        (("input", "target"),),
        read_pair,
        "Firefly, FLAN and other sequence-to-sequence data",
        ("input is the prompt, target the answer", "input 为提示，target 为回答"),
        '{"kind": "NLI", "input": "树是植物吗？", "target": "是"}',
    ),
    Shape(
        "prompt-completion",
        (("prompt", "completion"), ("prompt", "response")),
        read_pair,
        "TRL, OpenAI's former format",
        (
            "prompt and completion (or response) are text, or lists of turns",
            "prompt 与 completion（或 response）为文本，或轮次列表",
        ),
        '{"prompt": [{"role": "user", "content": "2+2?"}], '
        '"completion": [{"role": "assistant", "content": "4"}]}',
    ),
    Shape(
        "question-answer",
        (("question", "answer"), ("question", "response")),
        read_pair,
        "question answering, OpenOrca, tables with 问题 and 回答",
        (
            "question, a line break and context are the prompt; answer (or response) is the answer",
            "question、换行、context 组成提示；answer（或 response）为回答",
        ),
        '{"问题": "什么是苹果？", "回答": "一种水果"}',
    ),
    Shape(
        "query-response",
        (("query", "response"),),
        read_pair,
        "ms-swift",
        (
            "query is the prompt, response the answer, history what came before",
            "query 为提示，response 为回答，history 为之前的轮次",
        ),
        '{"query": "and 3+3?", "response": "6", "history": [["2+2?", "4"]]}',
    ),
    Shape(
        "problem-solution",
        (("problem", "solution"),),
        read_pair,
        "MATH and its kin",
        ("problem is the prompt, solution the answer", "problem 为提示，solution 为回答"),
        '{"problem": "2+2?", "solution": "Two and two make 4.", "level": "1"}',
    ),
    Shape(
        "squad",
        (("question", "answers"),),
        read_pair,
        "SQuAD",
        (
            "question, a line break and context are the prompt; the one text of answers is the answer "
            "(`data.answers: first` if there are several)",
            "question、换行、context 组成提示；answers 中唯一的文本为回答（多个时用 `data.answers: first`）",
        ),
        '{"context": "The oak is 400 years old.", "question": "How old is it?", '
        '"answers": {"text": ["400 years"], "answer_start": [11]}}',
    ),
    Shape(
        "hc3",
        (("question", "human_answers"), ("question", "chatgpt_answers")),
        read_pair,
        "HC3",
        (
            "sapwood asks which: `data.columns.prompt=question data.columns.completion=human_answers`",
            "需指明：`data.columns.prompt=question data.columns.completion=human_answers`",
        ),
        '{"question": "Why is the sky blue?", "human_answers": ["Air scatters blue light."]}',
    ),
    Shape(
        "xlam",
        (("query", "tools", "answers"),),
        read_calling,
        "xLAM, APIGen",
        (
            "query is the prompt, answers are the calls that answer it",
            "query 为提示，answers 为作为回答的调用",
        ),
        '{"query": "Weather in Oslo?", "tools": "[{\\"name\\": \\"weather\\", \\"parameters\\": {}}]", '
        '"answers": "[{\\"name\\": \\"weather\\", \\"arguments\\": {\\"city\\": \\"Oslo\\"}}]"}',
    ),
    Shape(
        "messages",
        (("messages",),),
        read_turns,
        "OpenAI, TRL, most chat data of today",
        (
            "turns of role and content, with tool_calls, reasoning, name and tool_call_id",
            "由 role 与 content 组成的轮次，可带 tool_calls、reasoning、name、tool_call_id",
        ),
        '{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}',
    ),
    Shape(
        "sharegpt",
        (("conversations",),),
        read_turns,
        "ShareGPT, LLaMA-Factory, Axolotl",
        ("turns of from and value", "由 from 与 value 组成的轮次"),
        '{"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}',
    ),
    Shape(
        "conversation",
        (("conversation",), ("dialog",), ("dialogue",), ("turns",)),
        read_turns,
        "MOSS, XTuner",
        (
            "items of a prompt and its answer (human or input, assistant or output), or turns as above",
            "每项含提示与回答（human 或 input，assistant 或 output），或同上的轮次",
        ),
        '{"conversation": [{"system": "Be brief.", "input": "2+2?", "output": "4"}, '
        '{"input": "+1?", "output": "5"}]}',
    ),
    Shape(
        "ultrachat",
        (("data",),),
        read_turns,
        "UltraChat",
        ("texts in turn, of which the user has the first", "轮流的文本，第一条为用户"),
        '{"id": "0", "data": ["2+2?", "4", "and one more?", "5"]}',
    ),
    Shape(
        "glaive",
        (("system", "chat"), ("chat",)),
        read_turns,
        "Glaive function calling",
        (
            "one text with USER:, ASSISTANT: and FUNCTION RESPONSE:; calls and functions become tools",
            "一段含 USER:、ASSISTANT:、FUNCTION RESPONSE: 的文本；其中的调用与函数成为工具",
        ),
        '{"system": "SYSTEM: You may call functions.", '
        '"chat": "USER: 2+2?\\n\\n\\nASSISTANT: 4 <|endoftext|>"}',
        unfold_dialogue,
    ),
    Shape(
        "oasst",
        (("message_tree_id", "prompt"),),
        read_turns,
        "Open Assistant's trees",
        (
            "the path of the best-ranked replies; each path with `data.paths: all`",
            "排名最高的回复所成的路径；`data.paths: all` 取全部路径",
        ),
        '{"message_tree_id": "t", "prompt": {"role": "prompter", "text": "2+2?", "replies": '
        '[{"role": "assistant", "text": "4", "rank": 0, "replies": []}, '
        '{"role": "assistant", "text": "5", "rank": 1, "replies": []}]}}',
        unfold_tree,
    ),
    Shape(
        TEXT,
        ((TEXT,),),
        _no_turns,
        "conversations that somebody rendered, documents",
        (
            "rendered text is taken apart by the template; other text is learnt whole "
            "(`template.train_on: all`)",
            "已渲染的文本由模板拆回轮次；其他文本整体学习（`template.train_on: all`）",
        ),
        '{"text": "<|im_start|>user\\n2+2?<|im_end|>\\n<|im_start|>assistant\\n4<|im_end|>\\n"}',
    ),
)
_TAKEN = {keys for shape in _NAMED for keys in shape.keys}
_COLUMNS = Shape(
    "columns",
    tuple(pair for pair in product(PROMPTS, ANSWERS) if pair not in _TAKEN),
    read_pair,
    "tables of any kind",
    (
        f"one prompt ({', '.join(PROMPTS)}) and one answer ({', '.join(ANSWERS[:6])})",
        f"一列提示（{'、'.join(PROMPTS)}）和一列回答（{'、'.join(ANSWERS[:6])}）",
    ),
    '{"problem": "2+2?", "answer": "4"}',
)
SHAPES: dict[str, Shape] = {shape.name: shape for shape in (*_NAMED, _COLUMNS)}
