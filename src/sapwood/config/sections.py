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
    """the model to fine-tune: builtin:smollm2, hf:ORG/NAME[@revision], ms:ORG/NAME[@revision], a folder in
    Hugging Face layout, or a .gguf file"""
    storage: Storage = "auto"
    """number format of the frozen weights in memory. auto: the fastest that fits of fp32, bf16 or fp16, else
    gguf (of a .gguf file) or nf4. nf4, fp4 and int8 take less memory and lose some precision; int8-compute
    also multiplies in 8 bits"""
    compute_dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """number format for multiplying weights that are stored packed (gguf, nf4, fp4, int8, int8-compute); auto
    measures which one is fastest here"""
    double_quant: bool = True
    """with nf4 and fp4: also compress their scaling factors to 8 bits, which saves 0.37 bits per weight"""
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential", "cpu", "cuda"] = "auto"
    """where the model runs: auto takes a GPU if there is one, else the CPU; cpu and cuda (an NVIDIA GPU)
    force one. The other names, from tutorials, mean the one GPU"""
    offline: bool = False
    """never contact a hub: take hf: and ms: models from what was downloaded before"""
    products: Literal["auto", "stored", "fp32"] = "auto"
    """number format for multiplying fp32, bf16, fp16, gguf or int8-compute weights: stored keeps theirs; fp32
    converts them first, which is faster on some CPUs; auto measures both"""
    new_tokens: Strings = ()
    """tokens to add to the tokenizer, for example <oak>; each gets a trained vector. Rows spell them as plain
    text"""


class DataConfig(Section):
    train: Strings
    """your examples: files, folders, or datasets hf:ORG/NAME[/FILE]. JSON, JSONL, CSV, TSV, Excel, Parquet,
    Arrow and text can be read"""
    weights: Annotated[tuple[Weight, ...], BeforeValidator(list_to_tuple)] = ()
    """one number per entry of data.train: how often an epoch uses its rows. 2 is twice, 0.5 is half of them,
    in every epoch the same half; if empty, each row is used once"""
    eval: Annotated[float | str, BeforeValidator(as_float)] = 0.05
    """rows kept out of training to measure progress: a fraction of the rows, a number of rows (2 or more), a
    file, or 0 for none"""
    format: Format = "auto"
    """what a row looks like, for example alpaca or messages; auto finds out from its keys and asks if unsure.
    docs/data.md lists them all"""
    columns: dict[Column, str] = {}
    """your names for the columns, if sapwood doesn't know them: {prompt: q, completion: a, system: s}"""
    records: str | None = None
    """which list of a JSON object, or which sheet of a workbook, holds the rows, if there are several"""
    system: str | None = None
    """system prompt for rows that have none"""
    roles: dict[str, Role] = {}
    """your names for who speaks, if sapwood doesn't know them: {moderator: system, coach: assistant}"""
    ignore: Strings = ()
    """columns to ignore, though their names usually mean something: label, weight, context, reasoning"""
    answers: Literal["one", "first"] = "one"
    """rows with several answers to one question: one stops at them; first trains on the first answer"""
    paths: Literal["best", "all"] = "best"
    """rows that are trees of replies: best trains on the path of the best-ranked replies; all makes a row of
    every path"""
    empty: Literal["error", "drop"] = "error"
    """rows without a prompt or an answer: error stops and lists them; drop leaves them out and counts them"""
    bad_rows: Literal["error", "drop"] = "error"
    """rows that can't be read: error stops and lists them; drop leaves them out, counts them, and lists them
    in the run's folder"""
    overlap: Literal["error", "allow"] = "error"
    """rows of data.eval's file whose answers data.train teaches too: error stops and lists them; allow keeps
    and counts them"""
    encoding: str = "auto"
    """how text files are encoded, for example gb18030. auto reads UTF-8, and UTF-16 with a byte order mark;
    anything else it asks about"""
    strip_control_text: bool = False
    """remove stop tokens such as <|im_end|> that the data has at the end of messages, and split messages that
    hold a whole rendered conversation into turns"""

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
            raise ValueError("it must be a fraction below 1, a whole number of rows, or a file")
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
    """chat template, which turns messages into text. auto: the tokenizer's own, or that of its family; or
    gemma-2, llama-2-chat, chatglm3, chatml, or a .jinja file"""
    train_on: Literal["assistant", "last", "all"] = "assistant"
    """what the model learns to write: every assistant turn, only the last one, or the whole text"""
    overlong: Literal["error", "drop", "cut"] = "error"
    """rows with more tokens than pack.length: error stops and lists them; drop leaves them out; cut keeps the
    beginning, without a stop token. Both are counted"""
    accept: Annotated[tuple[Accepted, ...], BeforeValidator(as_tuple)] = ()
    """checks that may fail because your data is meant that way, for example early-stop; the run records which
    rows fail. The error of a failed check names its code"""
    meant: Strings = ()
    """special tokens that answers contain on purpose, such as <think>; all others in the data are treated as
    plain text"""
    no_reasoning: Literal["error", "close"] = "error"
    """answers without reasoning, if the template opens a <think> block: error stops at them; close trains the
    model to close the block at once"""


class PackConfig(Section):
    length: int = Field(default=1024, ge=16, le=1_048_576)
    """most tokens in one forward pass, which is also the longest row that is accepted. More needs more
    memory"""
    share_prefixes: bool = True
    """compute a beginning that several rows share, for example a system prompt, only once per pass, which is
    faster"""
    rows: Literal["auto", "together", "alone"] = "auto"
    """together: several rows share a forward pass. alone: one row per pass, slower, which some architectures
    need. auto tests a tiny copy of the model; the loss is the same"""


class LoraConfig(Section):
    method: Method = "lora"
    """how the model is adapted. lora suits most jobs; rslora, dora, lora+, pissa and loftq are variants of
    it; ia3, prompt, p-tuning and prefix train far fewer numbers; full trains the whole model"""
    rank: int = Field(default=8, ge=1, le=4096)
    """size of the adapter; 8 to 16 suits most data. More can learn more and needs more memory"""
    alpha: Number = Field(default=32, gt=0, le=65536)
    """strength of the adapter: its output is multiplied by alpha / rank"""
    dropout: Number = Field(default=0.1, ge=0, lt=1)
    """share of the adapter's inputs that are set to zero at random while training (0.1 is a tenth); helps
    against overfitting"""
    b_ratio: Number = Field(default=16, ge=1, le=1000)
    """lora+ only: how many times faster the adapter's matrix B learns than its matrix A; 16 is the value of
    the method's authors"""
    bias: Literal["none", "lora_only", "all"] = "none"
    """which biases of the model are trained too: none, those of the adapted layers, or all"""
    virtual_tokens: int = Field(default=20, ge=1, le=1024)
    """prompt, p-tuning and prefix only: how many trained tokens stand before each row"""
    targets: Annotated[str | tuple[str, ...], BeforeValidator(list_to_tuple)] = "all-linear"
    """which layers are adapted: all-linear (all but the output layer; with ia3 keys, values and the MLP's
    last), a list such as [q_proj, v_proj], or one regular expression over their full names"""
    train_also: Annotated[tuple[Literal["embed_tokens", "lm_head"], ...], BeforeValidator(as_tuple)] = ()
    """train these layers as a whole too: embed_tokens is the embedding, lm_head the output layer, whatever
    the model calls them. If the two are one, either name means both"""
    start_from: str | None = None
    """an adapter to continue from: a run's folder, or an adapter of PEFT, mlx-lm or llama.cpp. It also sets
    method, rank, alpha and targets"""

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
    """passes over the data; fractions are allowed. 3 if neither this nor train.max_steps is set"""
    max_steps: int | None = Field(default=None, ge=1)
    """train for this many optimizer steps, instead of train.epochs"""
    batch_size: int = Field(default=16, ge=1)
    """examples in one optimizer step, however they are packed"""
    micro_batch: int | None = Field(default=None, ge=1)
    """most examples in one forward pass; if unset, as many as fit into pack.length. Fewer need less memory;
    the loss is the same"""
    lr: Number = Field(default=1e-4, gt=0, le=10)
    """learning rate at its highest; 5e-5 to 5e-4 is usual for LoRA"""
    optimizer: Optimizer = "adamw"
    """adamw suits most jobs. The 8-bit forms, adafactor, lion and sgd need less memory; the paged ones help
    on a GPU only"""
    schedule: Literal["linear", "cosine", "cosine-restarts", "polynomial", "inverse-sqrt", "constant"] = (
        "linear"
    )
    """how the learning rate changes after the warm-up"""
    power: Number = Field(default=2.0, gt=0, le=100)
    """with schedule polynomial: 1 falls in a straight line, more falls faster at first"""
    cycles: int = Field(default=3, ge=1, le=1000)
    """with schedule cosine-restarts: how many times it falls from the peak to zero"""
    warmup: Number = Field(default=0.03, ge=0)
    """how long the learning rate rises at the start: below 1 a share of all steps (0.03 is 3 %), else a
    number of steps"""
    weight_decay: Number = Field(default=0.0, ge=0, lt=1)
    """decoupled weight decay: pulls what is trained towards zero at each step; 0 is off"""
    max_grad_norm: Number = Field(default=1.0, ge=0)
    """gradients whose norm is larger are scaled down to this; 0 is off"""
    shard: Literal["none", "base"] = "none"
    """with several processes: none keeps a whole copy of the model in each; base splits every layer of it
    among them"""
    neftune: Number = Field(default=0.0, ge=0, le=1000)
    """strength of random noise added to the embeddings while training (NEFTune); 5 to 15 is usual, 0 is
    off"""
    gradient_checkpointing: Literal["auto", "offload"] | bool | Annotated[int, Field(ge=0)] = "auto"
    """layers that are computed a second time instead of kept, which saves memory and takes longer: auto takes
    as many as needed to fit; true is all, false none; or a number of layers. offload is all, and on a GPU
    their inputs wait in RAM"""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads; if unset, one per core, or half as many if a measurement shows that more don't help"""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """decides all that is random: which rows are held out, their order, the adapter's first weights,
    dropout"""
    on_nan: Literal["stop", "skip"] = "stop"
    """a step whose loss or gradient isn't a finite number never changes the adapter: stop ends the run there;
    skip goes on and counts it, but ten in a row end the run"""

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
    """optimizer steps between evaluations; if unset, once per epoch"""
    samples: int = Field(default=4, ge=0, le=1000)
    """how many held-out prompts the model answers at each evaluation"""
    max_new_tokens: int = Field(default=128, ge=1, le=32768)
    """most tokens in a sample answer"""
    best: str = Field(default="loss", pattern=r"^-?[\w./-]{1,64}$")
    """what decides which evaluation is best: loss, or a score such as chrf, exact_match or one of your own.
    The higher score wins; with -NAME the lower one"""
    patience: int | None = Field(default=None, ge=1)
    """stop early after this many evaluations in a row that don't beat the best one; if unset, never"""


class SaveConfig(Section):
    every: int = Field(default=100, ge=1)
    """optimizer steps between checkpoints; the last step is always saved"""
    minutes: Number = Field(default=10, ge=0)
    """most minutes between checkpoints, even if save.every steps take longer; 0 is off"""
    keep: int = Field(default=2, ge=1)
    """how many of the newest checkpoints stay on disk, besides that of the best evaluation"""
    adapter: Literal["auto", "last", "best"] = "auto"
    """which weights the finished adapter has: those of the last step or of the best evaluation. auto: best if
    eval.patience is set, else last"""
    dir: str = "runs"
    """folder that holds the runs"""


class TrackConfig(Section):
    to: Annotated[tuple[TrackerName, ...], BeforeValidator(as_tuple)] = ()
    """trackers that get a copy of the curves: swanlab, tensorboard, wandb, trackio, mlflow. The run's own
    folder always has them"""
    mode: Literal["offline", "cloud", "disabled"] = "offline"
    """offline writes into the folder of the runs, to send later; cloud sends at once, with the tracker's key
    from the environment; disabled does neither"""
    every: int = Field(default=1, ge=1)
    """optimizer steps between two points of a tracker's curve; the run's own record has every step"""
    project: str = Field(default="sapwood", pattern=r"^[\w.-]{1,64}$")
    """project name in the trackers"""


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
    `parse_config`, or keyword arguments of `finetune`.

    Raises:
        ConfigError: keys or values are wrong; every problem at once.

    Examples:
        >>> sapwood.RunConfig(data={"train": "rows.jsonl"}).lora.rank
        8
    """

    version: int = Field(default=FORMAT, ge=1, le=FORMAT)
    """version of the config's format; a newer one than this sapwood knows is refused"""
    name: str | None = Field(default=None, pattern=r"^[\w.-]{1,64}$")
    """a name for the run: up to 64 letters, digits, dots, dashes or underscores"""
    base: BaseConfig = BaseConfig()
    """the model, which stays frozen"""
    data: DataConfig
    """what it learns from"""
    template: TemplateConfig = TemplateConfig()
    """how rows become text, and which part of the text is learnt"""
    pack: PackConfig = PackConfig()
    """how rows share a forward pass"""
    lora: LoraConfig = LoraConfig()
    """the adapter: what is trained"""
    train: TrainConfig = TrainConfig()
    """steps, learning rate, optimizer"""
    eval: EvalConfig = EvalConfig()
    """how progress is measured: held-out loss and sample answers"""
    save: SaveConfig = SaveConfig()
    """checkpoints and the result"""
    track: TrackConfig = TrackConfig()
    """trackers that get the curves too"""

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
