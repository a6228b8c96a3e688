"""Write docs/data.md and its Chinese twin: ``python docs/data.py``.

One source for both pages: the table of shapes that `sapwood check` reads. `tests/data/test_shapes.py` keeps
the pages as this script writes them.
"""

from __future__ import annotations

from pathlib import Path

from sapwood.data.shapes.shape import Shape
from sapwood.data.shapes.table import SHAPES

HERE = Path(__file__).resolve().parent

EN = """# Files and rows that sapwood reads

[中文](data.zh-CN.md)

JSON, JSONL, CSV, TSV, Parquet, Arrow, Excel (`.xlsx`) and text, each perhaps packed by gzip, zstd, xz, bzip2
or zip. A folder stands for its files: those named train are learnt, those named validation (or else test) are
held out if `data.eval` isn't set, and `sapwood check` says so. So it is with a dataset of a hub
(`hf:ORG/NAME`). Folders of `datasets.save_to_disk` are read too. Parquet, Arrow and datasets of a hub need
`python -m pip install -e '.[data]'` in a clone, once. LLaMA-Factory's `dataset_info.json` beside a
file says what its columns, turns and roles are called.

`sapwood check` says in one line how rows are read. What can be read in two ways is a question, with each
answer ready to copy. Column names may be in another case or in Chinese; `data.columns` maps any other.

| `data.format` | a row has | how it is read | who writes it |
|---|---|---|---|
"""
ZH = """# sapwood 能读取的文件与数据行

[English](data.md)

支持 JSON、JSONL、CSV、TSV、Parquet、Arrow、Excel（`.xlsx`）与文本，也可用 gzip、zstd、xz、bzip2 或 zip 压缩。
给出文件夹，就是给出其中的文件：名为 train 的用来学习；没有设置 `data.eval` 时，
名为 validation（没有就用 test）的留作评估，`sapwood check` 会说明。
模型站上的数据集（`hf:ORG/NAME`）也是这样。`datasets.save_to_disk` 保存的文件夹也能读取。
读 Parquet、Arrow 和模型站上的数据集，要先在克隆的仓库里执行一次 `python -m pip install -e '.[data]'`。
文件旁边如果有 LLaMA-Factory 的 `dataset_info.json`，列、轮次与角色的名称就按它来读。

`sapwood check` 用一行说明数据行如何读取。若有两种读法，会给出可直接复制的两个答案。列名可用其他大小写或中文；
其他名称用 `data.columns` 映射。

| `data.format` | 数据行包含 | 读取方式 | 来源 |
|---|---|---|---|
"""
MARKS_EN = """
## What a turn may say about itself

`train`, `training`, `trainable`, `loss` (true: learnt), `loss_mask`, `weight`, `loss_weight`, `loss_scale`
(1: learnt, 0: not), `mask` and `masked` (true: not learnt) decide for their turn, or for their row. `weight:
0.5` counts each learnt token of the turn by half, or of the whole row if the row says it; the two multiply. A
loss is then the sum of weight times loss over the sum of the weights, in training and in evaluation. A row is
a bad example if its `label` is false, as KTO has it, or if `kto_tag`, `accepted`, `is_correct`, `thumbs_up`,
`rejected` or a key like them says so: `data.bad_rows: drop` leaves it out. None of these is ever ignored,
unless `data.ignore` names it; a value that can mean two things (`label: 0`) is asked about, and so is a key
of a turn that looks like one of them. `reasoning`, `reasoning_content`, `thinking` or `cot` is the reasoning
of its turn, or of the answer in a row of columns. What a question may be about (`passage`, `document`,
`choices`) is asked for: `data.columns.context=passage` puts it behind the prompt.

## Keys

| key | what it does |
|---|---|
| `data.columns` | the file's own names: `data.columns.prompt=frage data.columns.completion=antwort` |
| `data.roles` | whose turn it is: `data.roles.moderator=system` |
| `data.ignore` | keys that mean nothing here: `data.ignore=label` |
| `data.empty` | `drop` leaves rows out that lack their prompt or their answer; they are counted |
| `data.bad_rows` | `drop` leaves rows out that can't be read; they are counted and listed in the run |
| `data.answers` | `first` learns the first of several answers |
| `data.paths` | `all` learns each path of a tree of replies |
| `data.encoding` | how text files are encoded, if it isn't UTF-8, for example `cp1252` |
| `data.records` | the list of a JSON object, or the sheet of a workbook, that holds the rows |
| `data.overlap` | `allow` counts held-out rows that are learnt as well; by default they are an error |

## Examples

"""
MARKS_ZH = """
## 轮次自带的标记

`train`、`training`、`trainable`、`loss`（true 表示学习）、`loss_mask`、`weight`、`loss_weight`、`loss_scale`
（1 学习，0 不学习）、`mask` 与 `masked`（true 表示不学习）决定该轮或该行是否学习。`weight: 0.5`
使该轮每个被学习的 token 只计一半；写在行上则对整行生效，两者相乘。
此时损失为加权损失之和除以权重之和，训练与评估皆然。
KTO 的 `label: false` 是反例，`kto_tag`、`accepted`、`is_correct`、`thumbs_up`、`rejected` 等键同样如此：
`data.bad_rows: drop` 将其排除。这些标记都不会被忽略，除非写入 `data.ignore`；
值有两种含义时（`label: 0`），sapwood 会问是哪一种；轮次里看起来像标记的键，也会问。
`reasoning`、`reasoning_content`、`thinking` 或 `cot`
是该轮的推理过程；在列形式的行中则是回答的推理过程。问题所依据的内容（`passage`、`document`、`choices`）怎样用，
sapwood 会问：`data.columns.context=passage` 将其放在提示之后。

## 配置项

| 配置项 | 作用 |
|---|---|
| `data.columns` | 文件自己的列名：`data.columns.prompt=frage data.columns.completion=antwort` |
| `data.roles` | 角色名称的映射：`data.roles.moderator=system` |
| `data.ignore` | 在此无意义的键：`data.ignore=label` |
| `data.empty` | `drop` 排除缺少提示或回答的行，并计数 |
| `data.bad_rows` | `drop` 排除无法读取的行，计数并列在运行记录中 |
| `data.answers` | `first` 学习多个回答中的第一个 |
| `data.paths` | `all` 学习回复树的每条路径 |
| `data.encoding` | 文本文件的编码（非 UTF-8 时），例如中文版 Excel 存的 CSV：`gb18030` |
| `data.records` | JSON 对象中的列表或工作簿中的工作表 |
| `data.overlap` | `allow` 只统计同时被学习的评估行；默认报错 |

## 示例

"""


IN_CHINESE = {
    "the Datawhale tutorials": "Datawhale 教程",
    "many tables": "许多表格",
    "other sequence-to-sequence data": "其他序列到序列数据",
    "OpenAI's former format": "OpenAI 从前的格式",
    "question answering": "问答数据",
    "tables with 问题 and 回答": "有“问题”“回答”两列的表格",
    "MATH and its kin": "MATH 一类的数据",
    "most chat data of today": "如今的多数对话数据",
    "Glaive function calling": "Glaive 函数调用",
    "Open Assistant's trees": "Open Assistant 的回复树",
    "conversations that somebody rendered": "别人已经渲染好的对话",
    "documents": "文档",
    "tables of any kind": "任何表格",
    " and ": "和",
    ", ": "、",
}


def origin(text: str, language: int) -> str:
    """Who writes such rows, in Chinese if language is 1."""
    for english, chinese in IN_CHINESE.items() if language else ():
        text = text.replace(english, chinese)
    return text


def pages() -> dict[str, str]:
    """File name -> what it says."""
    return {
        "data.md": EN + _table(0) + MARKS_EN + _examples(),
        "data.zh-CN.md": ZH + _table(1) + MARKS_ZH + _examples(),
    }


def _table(language: int) -> str:
    return "".join(
        f"| `{shape.name}` | {_keys(shape)} | {shape.reads[language]} | {origin(shape.origin, language)} |\n"
        for shape in SHAPES.values()
    )


def _keys(shape: Shape) -> str:
    if shape.name == "columns":
        return "…"
    return "; ".join(", ".join(f"`{key}`" for key in keys) for keys in shape.keys)


def _examples() -> str:
    return (
        "".join(f"`{shape.name}`\n\n```json\n{shape.example}\n```\n\n" for shape in SHAPES.values()).rstrip(
            "\n"
        )
        + "\n"
    )


if __name__ == "__main__":
    for name, page in pages().items():
        (HERE / name).write_text(page, encoding="utf-8")
