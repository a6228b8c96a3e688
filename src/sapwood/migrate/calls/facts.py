"""Which call of a script loads the model, which trains, which answers; where the rows come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sapwood.migrate.script.found import Assigned, Formatting, Script
from sapwood.migrate.script.outside import COMMANDED, FIRST, PARSED
from sapwood.migrate.script.source import Source
from sapwood.migrate.script.values import (
    Attr,
    Call,
    Chat,
    Coded,
    Encoded,
    Field,
    Function,
    Ids,
    Object,
    Row,
    Special,
    Text,
    Unknown,
)

PEFT = {
    "LoraConfig": "lora", "PrefixTuningConfig": "prefix", "PromptTuningConfig": "prompt",
    "PromptEncoderConfig": "p-tuning", "IA3Config": "ia3", "AdaLoraConfig": "adalora", "LoHaConfig": "loha",
    "LoKrConfig": "lokr", "OFTConfig": "oft", "BOFTConfig": "boft", "VeraConfig": "vera",
}  # fmt: skip
ARGUMENTS = {
    "TrainingArguments", "SFTConfig", "Seq2SeqTrainingArguments", "UnslothTrainingArguments", "DPOConfig",
    "ORPOConfig",
    "KTOConfig", "CPOConfig", "RewardConfig", "GRPOConfig", "PPOConfig",
}  # fmt: skip
TRAINERS = {
    "Trainer", "SFTTrainer", "Seq2SeqTrainer", "UnslothTrainer", "DPOTrainer", "ORPOTrainer", "KTOTrainer",
    "CPOTrainer", "RewardTrainer", "GRPOTrainer", "PPOTrainer",
}  # fmt: skip
ANSWERING = {"Trainer", "SFTTrainer", "Seq2SeqTrainer", "UnslothTrainer"}
OPTIMIZERS = {
    "AdamW", "Adam", "SGD", "Adafactor", "Lion", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit",
    "PagedAdamW32bit", "Adam8bit", "FusedAdam", "DeepSpeedCPUAdam",
}  # fmt: skip
READERS = {"read_json", "read_csv", "read_excel", "read_parquet", "read_table", "read_pickle",
"load_from_disk",
           "load_dataset", "from_json", "from_csv", "from_parquet", "from_text", "open"}  # fmt: skip
BUILDERS = {"json", "csv", "text", "parquet", "pandas", "arrow", "xml", "webdataset"}


MAX_STREAM = 400  # values that a dataset is followed through
_TRAINED = ("model", "args", "data_collator", "train_dataset", "eval_dataset")
_PLACES = {  # arguments by place
    "Trainer": _TRAINED, "SFTTrainer": _TRAINED, "Seq2SeqTrainer": _TRAINED, "UnslothTrainer": _TRAINED,
    **dict.fromkeys(ARGUMENTS, ("output_dir",)),
}  # fmt: skip


@dataclass(slots=True)
class Facts:
    """The calls that decide a run; None if the script has none."""

    source: Source
    script: Script
    base: Call | None = None
    tokenizer: Call | None = None
    quantize: Call | None = None
    adapter: Call | None = None
    arguments: Call | None = None
    trainer: Call | None = None
    download: Call | None = None
    data: Call | None = None
    chain: list[Call] = field(default_factory=list[Call])
    formatting: Formatting | None = None
    answering: list[Call] = field(default_factory=list[Call])
    generate: Call | None = None
    optimizer: Call | None = None

    def calls(self, *names: str) -> list[Call]:
        return [call for call in self.script.calls if call.last in names]

    def has(self, *names: str) -> bool:
        return bool(self.calls(*names))

    def assigned(self, *names: str) -> list[Assigned]:
        return [one for one in self.script.assigned if one.name in names]

    @property
    def model_id(self) -> str | None:
        """As the script writes it."""
        value = first(
            self.base or self.trainer, "pretrained_model_name_or_path", "model_name", "model_id", "model"
        )
        return value if isinstance(value, str) else None

    @property
    def pad_is_eos(self) -> int:
        """The line that sets the padding token to eos; 0 if no line does."""
        for one in self.assigned("pad_token", "pad_token_id"):
            if isinstance(one.value, Special) and one.value.name == "eos":
                return one.line
        return 0

    @property
    def prefers(self) -> bool:
        """Whether the trainer learns preferences or rewards, and not answers."""
        return self.trainer is not None and self.trainer.last not in ANSWERING

    @property
    def by_command(self) -> bool:
        """Whether a command line, which isn't here, sets the training arguments."""
        return self.arguments is not None and self.arguments.inside == PARSED

    @property
    def in_unsloth(self) -> bool:
        return self.base is not None and "Fast" in self.base.name

    def argument(self, name: str, default: Any = None) -> Any:
        """Of TrainingArguments or SFTConfig, or of a trainer that takes it itself."""
        for call in (self.arguments, self.trainer):
            if call is not None and name in call.kwargs:
                return call.kwargs[name]
        return default

    def line(self, name: str) -> int:
        for call in (self.arguments, self.trainer):
            if call is not None and name in call.kwargs:
                return call.lines.get(name, call.line)
        return 0


def first(call: Call | None, *names: str) -> Any:
    """The first argument of a call, by place or by one of its names."""
    if call is None:
        return None
    return next(
        (call.kwargs[name] for name in names if name in call.kwargs), call.args[0] if call.args else None
    )


def line_of(call: Call, *names: str) -> int:
    """Of the first argument, by one of its names or by place."""
    named = next((call.lines[name] for name in names if name in call.lines), None)
    return named if named is not None else call.lines.get(FIRST, call.line)


def gather(source: Source, script: Script) -> Facts:
    facts = Facts(source, script)
    loads = [call for call in script.calls if loads_model(call)]
    facts.trainer = _last(call for call in script.calls if call.last in TRAINERS)
    trained = _end_of_training(script)
    for call in script.calls:
        for name, value in zip(_PLACES.get(call.last, ()), call.args, strict=False):
            call.kwargs.setdefault(name, value)
            call.lines.setdefault(name, call.line)
    facts.base = next((c for c in loads if script.calls.index(c) < trained), loads[0] if loads else None)
    facts.answering = [c for c in loads if c is not facts.base and script.calls.index(c) >= trained]
    facts.tokenizer = next(
        (c for c in script.calls if c.last == "from_pretrained" and "okenizer" in c.name), None
    )
    facts.download = next((c for c in script.calls if c.last == "snapshot_download"), None)
    facts.adapter = _adapter(facts)
    facts.arguments = _arguments(facts)
    facts.quantize = _quantize(facts)
    facts.generate = next((c for c in script.calls if c.last == "generate"), None)
    facts.optimizer = next((c for c in script.calls if c.last in OPTIMIZERS), None)
    _data(facts)
    facts.formatting = _formatting(facts)
    return facts


def loads_model(call: Call) -> bool:
    if call.last in ("load_model", "load") and "mlx" in call.name:
        return True
    owner = call.name.rpartition(".")[0].rpartition(".")[2]
    if call.last != "from_pretrained" or "Peft" in owner:
        return False
    return any(
        word in owner for word in ("Model", "CausalLM", "FastLanguage", "ForConditional", "Chat")
    ) and ("okenizer" not in owner and "Config" not in owner)


def _end_of_training(script: Script) -> int:
    """The place of the first call that trains, or that belongs behind training; the end if there is none."""
    for i, call in enumerate(script.calls):
        if call.last == "train" and isinstance(call.of, Call) and call.of.last in TRAINERS:
            return i
        if call.last == "from_pretrained" and "Peft" in call.name:
            return i
    return len(script.calls)


def _last(calls: Iterator[Call]) -> Call | None:
    found = list(calls)
    return found[-1] if found else None


def _adapter(facts: Facts) -> Call | None:
    given = facts.trainer.kwargs.get("peft_config") if facts.trainer else None
    if isinstance(given, Call) and given.last in PEFT:
        return given
    for call in facts.calls("get_peft_model"):
        config = call.args[1] if len(call.args) > 1 else call.kwargs.get("peft_config")
        if isinstance(config, Call) and config.last in PEFT:
            return config
        if "Fast" in call.name or "r" in call.kwargs:
            return call
    return next((call for call in facts.script.calls if call.last in PEFT), None)


def _arguments(facts: Facts) -> Call | None:
    given = facts.trainer.kwargs.get("args") if facts.trainer else None
    if isinstance(given, Call) and given.last in ARGUMENTS:
        return given
    if isinstance(given, Object):  # a dataclass of the script that is filled from the command line
        line = facts.trainer.line if facts.trainer else 0
        lines = {**(given.made_by.lines if given.made_by is not None else {}), **given.lines}
        inside = PARSED if given.parsed else COMMANDED
        return Call(given.name, line, kwargs=given.attrs, lines=lines, inside=inside)
    found = [c for c in facts.script.calls if c.last in ARGUMENTS or c.last.endswith("TrainingArguments")]
    if not found and facts.trainer is not None and given is None:
        return Call(_silent(facts.trainer.last), facts.trainer.line)
    return found[-1] if found else None


def _silent(trainer: str) -> str:
    """The class of a trainer's own settings, if it is given none."""
    kind = trainer.removesuffix("Trainer")
    return f"{kind}TrainingArguments" if kind in ("", "Seq2Seq", "Unsloth") else f"{kind}Config"


def _quantize(facts: Facts) -> Call | None:
    given = facts.base.kwargs.get("quantization_config") if facts.base else None
    if isinstance(given, Call) and given.last == "BitsAndBytesConfig":
        return given
    return next(iter(facts.calls("BitsAndBytesConfig")), None) if given is not None else None


# --- rows -------------------------------------------------------------------------------------------------


def _data(facts: Facts) -> None:
    given = facts.trainer.kwargs.get("train_dataset") if facts.trainer else None
    chain = list(upstream(given))
    facts.data = next((c for c in chain if c.last in READERS), None)
    if facts.data is None:
        chain = [] if given is None or isinstance(given, Unknown) else chain
        readers = [c for c in facts.script.calls if c.last in READERS and _of_rows(c)]
        facts.data = readers[0] if readers else None
    elif facts.data.last == "open" and not _of_rows(facts.data):
        facts.data = None
    facts.chain = chain


def _of_rows(call: Call) -> bool:
    if call.last != "open":
        return True
    mode = call.args[1] if len(call.args) > 1 else call.kwargs.get("mode", "r")
    path = first(call, "file")
    if "config" in call.attrs:
        return False
    return (
        "w" not in str(mode) and isinstance(path, str) and path.endswith((".json", ".jsonl", ".csv", ".txt"))
    )


def upstream(value: Any, seen: set[int] | None = None) -> Iterator[Call]:
    """The calls that a dataset came through, last first; each once."""
    seen = set[int]() if seen is None else seen
    if id(value) in seen or len(seen) > MAX_STREAM:
        return
    seen.add(id(value))
    inner: Iterable[Any] = ()
    if isinstance(value, Attr):
        inner = (value.of,)
    elif isinstance(value, Object):  # a Dataset of the script's own
        inner = value.attrs.values()
    elif isinstance(value, (list, tuple)):
        inner = value
    elif isinstance(value, Call):
        yield value
        given = () if value.last in READERS else (*value.args, *value.kwargs.values())
        inner = (value.of, *(one for one in given if isinstance(one, (Call, Attr, list))))
    for one in inner:
        yield from upstream(one, seen)


def _formatting(facts: Facts) -> Formatting | None:
    """The function whose result is trained on."""
    if facts.prefers:
        return None
    given = facts.trainer.kwargs.get("formatting_func") if facts.trainer else None
    for found in facts.script.formattings:
        if isinstance(given, Function) and found.function.node is given.node:
            return found
    lines = {call.line for call in facts.chain}
    others = {call.line for call in facts.calls("map", "apply") if _of_others(facts, call)}
    usable = [f for f in facts.script.formattings if f.line not in others]
    mapped = [f for f in usable if f.mapped and f.line in lines] or [f for f in usable if f.mapped]
    useful = [f for f in mapped if any(_useful(way.result) for way in f.ways)]
    if useful:
        return useful[-1]
    rest = [f for f in usable if any(_useful(way.result) for way in f.ways)]
    return rest[0] if rest else None


def _of_others(facts: Facts, call: Call) -> bool:
    """Whether a mapping is of other rows than those that are trained on: another call reads them."""
    read = next((one for one in upstream(call.of) if one.last in READERS), None)
    return bool(facts.chain) and read is not None and facts.data is not None and read is not facts.data


def _useful(result: Any) -> bool:
    if isinstance(result, Row):
        return bool(result.columns)
    if isinstance(result, dict):
        return any(
            k in result for k in ("input_ids", "text", "messages", "conversations", "prompt", "labels")
        ) or any(isinstance(v, Text) for v in result.values())
    if isinstance(result, list):
        return any(isinstance(one, Text) for one in result)
    return isinstance(result, (Coded, Ids, Text))


def column_fields(value: Any) -> list[Field]:
    """Columns that a value is made of, in their order."""
    if isinstance(value, Field):
        return [value]
    if isinstance(value, Text):
        return [f for part in value.parts for f in column_fields(part)]
    if isinstance(value, Encoded):
        return column_fields(value.text)
    if isinstance(value, Ids):
        return [f for part in value.parts for f in column_fields(part)]
    if isinstance(value, Coded):
        return column_fields(value.ids)
    if isinstance(value, Chat):
        return column_fields(value.messages)
    if isinstance(value, dict):
        return [f for inner in value.values() for f in column_fields(inner)]
    if isinstance(value, (list, tuple)):
        return [f for inner in value for f in column_fields(inner)]
    return []
