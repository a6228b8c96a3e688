"""What files call the parts of a row, and what a person meant by a name that is near to one of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sapwood.data.problems import names, nearest

PROMPTS = ("instruction", "prompt", "question", "query", "problem")
ANSWERS = (
    "output", "completion", "response", "answer", "target", "solution", "answers",
    "human_answers", "chatgpt_answers",
)  # fmt: skip
EXTRAS = ("input", "context")  # their text follows the prompt, on a line of its own
TURNS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "data")
BESIDE = ("system", "history", "tools", "functions")  # what a row of any shape may bring too
TEXT = "text"
REASONING = (
    "reasoning", "reasoning_content", "thinking", "thinking_content", "thought", "thoughts", "cot",
    "complex_cot", "chain_of_thought",
)  # fmt: skip
# What a question may be about; a row's own, not a turn's. Only a person knows whether it is in the prompt.
ABOUT = (
    "passage", "passages", "document", "documents", "article", "paragraph", "story", "background",
    "knowledge", "evidence", "choices", "options",
)  # fmt: skip
MEDIA = ("image", "images", "image_path", "audio", "audios", "video", "videos")

# key -> does a true value mean that the turn, or the row, is learnt?
MARKS = {
    "train": True,  # sapwood
    "training": True,  # Axolotl
    "trainable": True,
    "loss": True,  # ms-swift, LLaMA-Factory
    "loss_mask": True,  # slime
    "output_with_loss": True,  # XTuner
    "weight": True,  # OpenAI
    "loss_weight": True,
    "loss_scale": True,  # ms-swift
    "sample_weight": True,
    "mask": False,  # tools that hide what is masked
    "masked": False,  # torchtune
}
# key -> is an answer good if it is true? KTO, and people's verdicts on answers.
VERDICTS = {
    **dict.fromkeys(
        (
            "label", "kto_tag", "kto_label", "desirable", "is_desirable", "accepted", "is_accepted",
            "approved", "is_approved", "chosen", "preferred", "good", "is_good", "correct", "is_correct",
            "liked", "upvoted", "thumbs_up", "feedback", "verdict", "rating", "preference",
        ),
        True,
    ),
    **dict.fromkeys(
        (
            "undesirable", "rejected", "is_rejected", "bad", "is_bad", "incorrect", "is_incorrect",
            "disliked", "downvoted", "thumbs_down",
        ),
        False,
    ),
}  # fmt: skip

KNOWN = {
    *PROMPTS, *ANSWERS, *EXTRAS, *TURNS, *BESIDE, TEXT, *REASONING, *ABOUT, *MEDIA, *MARKS, *VERDICTS,
    "chat", "message_tree_id", "split",
}  # fmt: skip

# The same in other words; each has one meaning only.
OTHER_WORDS = {
    "指令": "instruction",
    "问题": "question",
    "提问": "question",
    "提示": "prompt",
    "提示词": "prompt",
    "输入": "input",
    "输出": "output",
    "回答": "answer",
    "答案": "answer",
    "回复": "response",
    "系统": "system",
    "系统提示": "system",
    "系统提示词": "system",
    "对话": "conversations",
    "消息": "messages",
    "历史": "history",
    "工具": "tools",
    "上下文": "context",
    "文本": "text",
    "思考": "reasoning",
    "思考过程": "reasoning",
    "思维链": "reasoning",
    "推理过程": "reasoning",
    "权重": "weight",
    **dict.fromkeys(
        ("system_prompt", "systemprompt", "sys_prompt", "sys", "system_message", "system_instruction"),
        "system",
    ),
    **dict.fromkeys(
        ("chat_history", "conversation_history", "dialog_history", "dialogue_history"), "history"
    ),
    **dict.fromkeys(("available_tools", "tool_list", "tools_list"), "tools"),
    "available_functions": "functions",
}


def canonical(key: str) -> str:
    """The key that a column's name stands for: the same in another case or language; itself if none."""
    folded = key.strip().casefold().replace(" ", "_").replace("-", "_")
    folded = OTHER_WORDS.get(folded, folded)
    return folded if folded in KNOWN else key


def renamed(keys: Iterable[str]) -> dict[str, str]:
    """Column -> the key that it stands for, of those that differ. A key that is there already stays."""
    there = [*keys]
    taken = {*there}
    found: dict[str, str] = {}
    for key in there:
        name = canonical(key)
        if name not in taken:
            found[key] = name
            taken.add(name)
    return found


def repair(missing: str, keys: Collection[str]) -> str:
    """How to get a missing key: name the column that was probably meant, or add it."""
    others = [key for key in keys if key not in KNOWN]
    near = nearest(missing, others)
    return f"rename {names([near])} to '{missing}'" if near is not None else f"add '{missing}'"
