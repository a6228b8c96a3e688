"""The config: one class per section. Every default, bound and sentence of help lives on its field: `sapwood
init` and the error messages read them from here. `config_file` reads and writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sapwood.config.faults import config_error
from sapwood.config.kinds import (
    Accepted,
    Method,
    Number,
    Optimizer,
    Storage,
    Strings,
    TrackerName,
    Weight,
    as_float,
    as_tuple,
    list_to_tuple,
)
from sapwood.config.words import Column, Format, Role, known_encoding


class Section(BaseModel):
    """Frozen, closed: a key that isn't here is an error, and so is NaN or infinity."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        strict=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )


class BaseConfig(Section):
    model: str = "builtin:smollm2"
    """builtin:smollm2, hf:ORG/NAME[@revision], ms:ORG/NAME[@revision], a folder in Hugging Face layout, or a
    .gguf file"""
    storage: Storage = "auto"
    """how the frozen weights are held; gguf: the GGUF file's own blocks; int8-compute: multiplied
    as int8 too; auto: the fastest exact one that fits"""
    compute_dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """number format of products over packed weights (gguf, nf4, fp4, int8 …); auto measures this machine"""
    double_quant: bool = True
    """nf4 and fp4: hold the scales in 8 bits too, which saves 0.37 bits a weight"""
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential", "cpu", "cuda"] = "auto"
    """where the model is computed: auto takes a GPU if there is one; the others by their usual names"""
    offline: bool = False
    """take hf: and ms: models from their caches, and ask no hub"""
    products: Literal["auto", "stored", "fp32"] = "auto"
    """format to multiply dense weights in: as held, or fp32, which some CPUs do faster; auto measures it"""
    new_tokens: Strings = ()
    """tokens to add to the tokenizer, plain text in a row; each is learnt as a row of the embedding, and of a
    head of its own"""


class DataConfig(Section):
    train: Strings
    """files, folders, or hf:ORG/NAME[/FILE]: JSON, JSONL, CSV, TSV, Parquet, text; rows of any shape below"""
    weights: Annotated[tuple[Weight, ...], BeforeValidator(list_to_tuple)] = ()
    """for each entry of train, how often an epoch sees its rows: 2 twice, 0.5 a fixed half; empty: once"""
    eval: Annotated[float | str, BeforeValidator(as_float)] = 0.05
    """held-out rows: a fraction of train, a number of rows (2 or more), a file, or 0 for none"""
    format: Format = "auto"
    """shape of a row; auto looks at the keys and asks in a doubtful case; docs/data.md lists them all"""
    columns: dict[Column, str] = {}
    """what the file calls a key, if it has its own names: {prompt: q, completion: a, system: s}"""
    records: str | None = None
    """the key of the list that holds the rows, if a JSON file is an object with several lists"""
    system: str | None = None
    """system prompt for rows that bring none"""
    roles: dict[str, Role] = {}
    """whose turn it is, if the file has its own names for that: {moderator: system, coach: assistant}"""
    ignore: Strings = ()
    """keys of rows or turns that mean nothing here, though they could: label, weight, context, reasoning"""
    answers: Literal["one", "first"] = "one"
    """rows with several answers to one question: one refuses them, first learns the first"""
    paths: Literal["best", "all"] = "best"
    """rows that are trees of replies: the path of the best-ranked replies, or each path as a row"""
    empty: Literal["error", "drop"] = "error"
    """rows without a prompt or an answer: stop and name them; or leave them out, counted"""
    bad_rows: Literal["error", "drop"] = "error"
    """rows that can't be read: stop and name them; or leave them out, counted and listed in the run"""
    overlap: Literal["error", "allow"] = "error"
    """answers of data.eval's file that data.train teaches as well: stop and name them, or count them"""
    encoding: str = "auto"
    """how text files are encoded; auto is UTF-8, or UTF-16 if its mark says so, and asks for the rest"""
    strip_control_text: bool = False
    """take stop tokens out of the ends of messages, and make turns of a rendered conversation in a message"""

    @field_validator("train")
    @classmethod
    def _names_files(cls, train: tuple[str, ...]) -> tuple[str, ...]:
        if not train or any(not path.strip() for path in train):
            raise ValueError("it names no file")
        return train

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        return known_encoding(encoding)

    @field_validator("eval")
    @classmethod
    def _holds_out_rows(cls, eval: float | str) -> float | str:
        if isinstance(eval, float) and not (0 <= eval < 1 or (eval > 0 and eval.is_integer())):
            raise ValueError("a fraction below 1, a whole number of rows, or a file")
        return eval

    @field_validator("weights")
    @classmethod
    def _one_each(cls, weights: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        entries = len(info.data.get("train", ()))
        if weights and entries and len(weights) != entries:
            raise ValueError(f"{len(weights)} weights for {entries} entries of data.train")
        return weights


class TemplateConfig(Section):
    name: str = "auto"
    """auto takes the tokenizer's own; built in: gemma-2, llama-2-chat, chatglm3, chatml; or a .jinja file"""
    train_on: Literal["assistant", "last", "all"] = "assistant"
    """what is learnt: every assistant turn, only the last one of a conversation, or all of the text"""
    overlong: Literal["error", "drop", "cut"] = "error"
    """rows longer than pack.length: stop and name them; leave them out; or cut them, with no stop token at
    the cut. What is left out or cut is counted"""
    accept: Annotated[tuple[Accepted, ...], BeforeValidator(as_tuple)] = ()
    """codes of the proof that may fail, for data that is meant so; the proof records each, with its rows"""
    meant: Strings = ()
    """control tokens that answers of the data spell and mean, such as <think> and </think> under a template
    that only copies; any other stays plain text"""
    no_reasoning: Literal["error", "close"] = "error"
    """answers without reasoning if the prompt opens <think>: refuse them, or learn to close it at once"""


class PackConfig(Section):
    length: int = Field(default=1024, ge=16, le=1_048_576)
    """tokens in one forward pass at most; also the longest row that is accepted"""
    share_prefixes: bool = True
    """compute a beginning that several examples of a step share (for example the system prompt) once"""
    rows: Literal["auto", "together", "alone"] = "auto"
    """together: rows share a forward pass; alone: each has its own, as layers that mix tokens otherwise than
    by attention need; auto asks a tiny copy of the model. The loss is the same"""


class LoraConfig(Section):
    method: Method = "lora"
    """lora; with another scale (rslora), magnitudes (dora), a faster B (lora+), a start from singular values
    (pissa) or what quantisation lost (loftq); ia3 scales activations; prompt, p-tuning and prefix learn what
    stands before each row; full trains a small base itself"""
    rank: int = Field(default=8, ge=1, le=4096)
    """width of the adapter; 8 to 16 suits most data"""
    alpha: Number = Field(default=32, gt=0, le=65536)
    """strength of the adapter: its output is multiplied by alpha / rank"""
    dropout: Number = Field(default=0.1, ge=0, lt=1)
    """share of the adapter's inputs that are zeroed while training"""
    b_ratio: Number = Field(default=16, ge=1, le=1000)
    """lora+ only: how many times as fast as A B learns"""
    bias: Literal["none", "lora_only", "all"] = "none"
    """which of the base's biases are trained too: none, those of the adapted layers, all"""
    virtual_tokens: int = Field(default=20, ge=1, le=1024)
    """prompt, p-tuning and prefix only: how many tokens are learnt"""
    targets: Annotated[str | tuple[str, ...], BeforeValidator(list_to_tuple)] = "all-linear"
    """all-linear, a list of module names (q_proj, v_proj …), or one regular expression over full names; ia3
    takes all-linear as keys, values and the MLP's last product"""
    train_also: Annotated[tuple[Literal["embed_tokens", "lm_head"], ...], BeforeValidator(as_tuple)] = ()
    """embed_tokens, lm_head: train the whole embedding or the head too, whatever the model calls them; of a
    model whose head is its embedding either means both"""
    start_from: str | None = None
    """an adapter to go on from: a run's folder, or an adapter of PEFT, mlx-lm or llama.cpp; method, rank,
    alpha and targets are its own"""

    @property
    def on_linears(self) -> bool:
        """Linear layers are adapted, one by one."""
        return self.method != "full" and not self.lead

    @property
    def lead(self) -> int:
        """Virtual tokens before every row."""
        return self.virtual_tokens if self.method in ("prompt", "p-tuning", "prefix") else 0


EPOCHS = 3.0  # if neither train.epochs nor train.max_steps is set


class TrainConfig(Section):
    epochs: Number | None = Field(default=None, gt=0, le=10_000)
    """passes over the data, 3 if neither this nor max_steps is set; a fraction is allowed"""
    max_steps: int | None = Field(default=None, ge=1)
    """so many optimizer steps, instead of epochs"""
    batch_size: int = Field(default=16, ge=1)
    """examples in one optimizer step; packing never changes which examples are in it"""
    micro_batch: int | None = Field(default=None, ge=1)
    """examples in one forward pass at most; without it as many as pack.length holds. The loss is the same"""
    lr: Number = Field(default=1e-4, gt=0, le=10)
    """peak learning rate; 5e-5 to 5e-4 is usual for LoRA"""
    optimizer: Optimizer = "adamw"
    """adamw, its moments perhaps in 8 bits or (on a GPU) paged; lion keeps one moment, adafactor a row and a
    column of it, sgd none"""
    schedule: Literal["linear", "cosine", "cosine-restarts", "polynomial", "inverse-sqrt", "constant"] = (
        "linear"
    )
    """how the learning rate falls after warm-up"""
    power: Number = Field(default=2.0, gt=0, le=100)
    """polynomial only: 1 is linear, more falls faster at first"""
    cycles: int = Field(default=3, ge=1, le=1000)
    """cosine-restarts only: how often it falls from the peak to zero"""
    warmup: Number = Field(default=0.03, ge=0)
    """share of the steps (below 1), or number of steps, over which the learning rate rises"""
    weight_decay: Number = Field(default=0.0, ge=0, lt=1)
    """the optimizer's decoupled weight decay, on what is trained only"""
    max_grad_norm: Number = Field(default=1.0, ge=0)
    """gradients with a larger norm are scaled down to it; 0 never clips"""
    shard: Literal["none", "base"] = "none"
    """with several processes: none, each holds the whole base; base, each holds a part of every layer"""
    neftune: Number = Field(default=0.0, ge=0, le=1000)
    """NEFTune: uniform noise on the embeddings, this strong (5 to 15 is usual), while training; 0 for none"""
    gradient_checkpointing: Literal["auto"] | bool | Annotated[int, Field(ge=0)] = "auto"
    """layers computed again in the backward pass, slower with far less memory: auto takes as many as the
    memory asks for, true all, false none; or their number"""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """threads of a CPU; without it, all cores, or half of them if more don't help by measurement"""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """decides the order of the rows, the adapter's start and every dropout mask"""
    on_nan: Literal["stop", "skip"] = "stop"
    """a step whose loss or gradient is no number: stop the run before it, or skip the step and count it (ten
    in a row stop all the same). Either way the adapter stays as it was"""

    @field_validator("max_steps")
    @classmethod
    def _one_length(cls, max_steps: int | None, info: ValidationInfo) -> int | None:
        if max_steps is not None and info.data.get("epochs") is not None:
            raise ValueError("train.epochs and train.max_steps both say how long it is: keep one of them")
        return max_steps

    @property
    def passes(self) -> float:
        """Passes over the data, if `max_steps` doesn't decide."""
        return EPOCHS if self.epochs is None else self.epochs


class EvalConfig(Section):
    every: int | None = Field(default=None, ge=1)
    """optimizer steps between evaluations; without it, once an epoch"""
    samples: int = Field(default=4, ge=0, le=1000)
    """held-out prompts that the model answers at each evaluation"""
    max_new_tokens: int = Field(default=128, ge=1, le=32768)
    """longest sample answer"""
    best: str = Field(default="loss", pattern=r"^-?[\w./-]{1,64}$")
    """what the best evaluation is judged by: loss, or the name of a score (chrf, exact_match, one of an
    evaluator's), of which more is better; -NAME if less is"""
    patience: int | None = Field(default=None, ge=1)
    """stop after so many evaluations in a row that are no better than the best; without it, never early"""


class SaveConfig(Section):
    every: int = Field(default=100, ge=1)
    """optimizer steps between checkpoints; the last step is always saved"""
    minutes: Number = Field(default=10, ge=0)
    """minutes between checkpoints at most, if save.every steps take longer; 0 counts steps only"""
    keep: int = Field(default=2, ge=1)
    """newest checkpoints that stay on disk; that of the best evaluation stays too"""
    adapter: Literal["auto", "last", "best"] = "auto"
    """which weights the run leaves; auto is best if eval.patience is set, and last otherwise"""
    dir: str = "runs"
    """folder that holds the runs"""


class TrackConfig(Section):
    to: Annotated[tuple[TrackerName, ...], BeforeValidator(as_tuple)] = ()
    """trackers to report to besides the run's own folder: swanlab, tensorboard, wandb, trackio, mlflow"""
    mode: Literal["offline", "cloud", "disabled"] = "offline"
    """offline writes beside the runs, to be sent later; cloud sends, with a key from the environment"""
    every: int = Field(default=1, ge=1)
    """optimizer steps between the points that a tracker gets; the run's own record has every step"""
    project: str = Field(default="sapwood", pattern=r"^[\w.-]{1,64}$")
    """what the trackers call the collection of runs"""


FORMAT = 1  # of the config; it grows when a key changes its meaning or goes away


def _of_the_base(values: Any) -> Any:
    """``data.new_tokens`` is taken for ``base.new_tokens``: new tokens are added to the base's tokenizer."""
    data: Any = values.get("data") if isinstance(values, Mapping) else None
    if not isinstance(data, Mapping) or "new_tokens" not in data:
        return values
    base: Any = values.get("base") or {}
    tokens = {"new_tokens": data["new_tokens"]}
    rest = {key: value for key, value in data.items() if key != "new_tokens"}
    return {**values, "data": rest, "base": {**tokens, **dict(base)}}


class RunConfig(Section):
    """Everything that decides a run: one attribute for each section of a config file. Made by `load_config`,
    `parse_config`, or keyword arguments of `finetune`."""

    version: int = Field(default=FORMAT, ge=1, le=FORMAT)
    """of this format; sapwood refuses one that is newer than itself"""
    name: str | None = Field(default=None, pattern=r"^[\w.-]{1,64}$")
    """a name for the run: letters, digits, dot, dash, underscore"""
    base: BaseConfig = BaseConfig()
    """the model that stays frozen"""
    data: DataConfig
    """what it learns from"""
    template: TemplateConfig = TemplateConfig()
    """how rows become text, and which part of it is learnt"""
    pack: PackConfig = PackConfig()
    """how examples share a forward pass"""
    lora: LoraConfig = LoraConfig()
    """the adapter"""
    train: TrainConfig = TrainConfig()
    """the loop"""
    eval: EvalConfig = EvalConfig()
    """held-out loss and sample answers"""
    save: SaveConfig = SaveConfig()
    """checkpoints"""
    track: TrackConfig = TrackConfig()
    """other places that want the figures"""

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, values: Any, handler: Callable[[Any], Self], info: ValidationInfo) -> Self:
        """Raises ConfigError with all faults at once, whether the config comes from a file, a mapping or
        keyword arguments."""
        told: Mapping[str, Any] = info.context or {}
        try:
            return handler(_of_the_base(values))
        except ValidationError as error:
            source, lines = told.get("source", "config"), told.get("lines", {})
            raise config_error(error, cls, source, lines) from None

    @field_validator("eval")
    @classmethod
    def _can_measure(cls, eval: EvalConfig, info: ValidationInfo) -> EvalConfig:
        data = info.data.get("data")
        if eval.patience is not None and data is not None and data.eval == 0:
            raise ValueError("eval.patience needs held-out rows, and data.eval is 0")
        return eval

    @field_validator("save")
    @classmethod
    def _knows_the_best(cls, save: SaveConfig, info: ValidationInfo) -> SaveConfig:
        data = info.data.get("data")
        if save.adapter == "best" and data is not None and data.eval == 0:
            raise ValueError("save.adapter: best needs held-out rows, and data.eval is 0")
        return save

    @property
    def keeps_best(self) -> bool:
        """Whether the run leaves the weights of its best evaluation."""
        wanted = self.save.adapter
        return wanted == "best" or (wanted == "auto" and self.eval.patience is not None)
