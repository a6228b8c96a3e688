"""Small real models and a small real tokenizer, made in code in a fraction of a second.

Each folder is what a person would download: config.json, model.safetensors, generation_config.json,
tokenizer.json, tokenizer_config.json with a ChatML template. The weights are random, everything else is real.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "chatglm", "glm4")  # by GGUF's names
IN_GGUF = (
    *ARCHITECTURES,
    *("arcee", "smollm3", "granite", "ernie4_5", "hunyuan-dense", "seed_oss", "olmo2", "exaone4", "phi3"),
    *("stablelm", "starcoder2", "command-r", "cohere2", "gemma", "olmo3", "nemotron"),
    *("mixtral", "qwen2moe", "qwen3moe", "olmoe", "granitemoe"),
    *("mistral3", "lfm2", "lfm2moe", "ernie4_5-moe", "hunyuan-moe", "gpt-oss", "qwen35", "qwen35moe"),
    *("glm4moe", "dots1", "olmo", "phi2"),
    *("deepseek2", "deepseek3", "youtu", "granitehybrid", "granitehybridmoe", "minicpm3"),
    *("qwen3vl", "qwen3vlmoe", "paddleocr", "gemma3n", "minimax-m2", "exaone-moe", "afmoe", "qwen3next"),
    *("gpt2", "starcoder", "gptneox", "falcon", "falcon-40b", "bloom", "mpt", "jais2", "bitnet", "apertus"),
    *("granitemoe-shared", "mamba", "falcon-mamba", "mamba2", "falcon-h1", "jamba", "bamba", "nemotron_h"),
    *(
        "kimi-linear",
        "gemma4",
        "gemma4moe",
        "mistral4",
        "glm-dsa",
        "llama4",
        "llama4-128",
        "dbrx",
        "chameleon",
        "mimo2",
    ),
)
VOCAB_SIZE = 600
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MULTIPLIERS = {
    "attention_multiplier": 0.0625,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 2.0,
}
DELTA_NETWORK = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [1, 1, 0],
    },
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
SECTIONS = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [3, 3, 2]}
}  # frequencies that turn by time, height and width
EXPERTS_OF_GLM = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}
MAMBA_OF_GRANITE = {
    "attention_multiplier": 0.25,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "logits_scaling": 0.25,
    "layer_types": ["linear_attention", "full_attention"],
    "mamba_n_heads": 8,
    "mamba_d_state": 16,
    "shared_intermediate_size": 64,
}
LLAMA4 = {
    "num_hidden_layers": 4,  # the fourth has no rotary embedding, and each second has experts
    "interleave_moe_layer_step": 2,
    "intermediate_size": 32,
    "intermediate_size_mlp": 128,
    "num_local_experts": 4,
    "num_experts_per_tok": 4,  # as MiniMax's
}
OF_KIND: dict[str, dict[str, Any]] = {
    "smollm3": {"num_hidden_layers": 4},  # the fourth has no rotary embedding
    "granite": MULTIPLIERS,
    "olmo2": {"tie_word_embeddings": False},
    "olmo3": {"tie_word_embeddings": False, "num_hidden_layers": 4, "sliding_window": 32},
    "nemotron": {"tie_word_embeddings": False},
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    "seed_oss": {"attention_dropout": 0.0, "residual_dropout": 0.0},
    "stablelm": {"tie_word_embeddings": False},
    "cohere2": {"num_hidden_layers": 4, "sliding_window": 32},
    "mistral": {"sliding_window": None},
    "ministral": {"sliding_window": None},
    "mixtral": {"sliding_window": None, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2moe": {**EXPERTS, "shared_expert_intermediate_size": 96, "tie_word_embeddings": False},
    "qwen3moe": EXPERTS | {"norm_topk_prob": True},
    "olmoe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "granitemoe": {**MULTIPLIERS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoe-shared": {
        **MULTIPLIERS,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 96,
    },
    "mistral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1_000_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        }
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "lfm2moe": {**EXPERTS, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "ernie4_5-moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32},
    "qwen35": DELTA_NETWORK,
    "qwen35moe": {**DELTA_NETWORK, **EXPERTS, "shared_expert_intermediate_size": 32},
    "phi2": {"tie_word_embeddings": False},
    "glm4moe": EXPERTS_OF_GLM,
    "solar_open": {name: value for name, value in EXPERTS_OF_GLM.items() if name != "first_k_dense_replace"}
    | {"num_experts_per_tok": 4},  # as MiniMax's
    "dots1": {**EXPERTS_OF_GLM, "tie_word_embeddings": False, "num_key_value_heads": 4},
    "gpt-oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 32,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 150_000.0},
    },
    "hunyuan-moe": {"num_experts": 4, "moe_topk": 2, "intermediate_size": 32},
    "deepseek2": LATENT | EXPERTS_OF_GLM | {"norm_topk_prob": False},
    "deepseek3": LATENT | EXPERTS_OF_GLM | {"n_group": 2, "topk_group": 1},
    "glm4_moe_lite": LATENT | EXPERTS_OF_GLM,
    "granitehybrid": MAMBA_OF_GRANITE | {"num_local_experts": 0, "position_embedding_type": "rope"},
    "granitehybridmoe": MAMBA_OF_GRANITE | {"num_local_experts": 4, "intermediate_size": 32},
    "minicpm3": LATENT | {"initializer_range": 0.03},  # its logits are multiplied by 256 / hidden_size
    "youtu": LATENT | {"tie_word_embeddings": False},
    "qwen3vl": SECTIONS,
    "qwen3vlmoe": SECTIONS | EXPERTS,
    "paddleocr": SECTIONS,
    "qwen3next": {
        **DELTA_NETWORK,
        **EXPERTS,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.25,
        },
        "norm_topk_prob": True,
        "shared_expert_intermediate_size": 32,
    },
    "minimax-m2": {
        "num_local_experts": 4,
        "num_experts_per_tok": 4,  # if rounding chose another one, its answers would move far
        "intermediate_size": 32,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
    },
    "exaone-moe": {
        **EXPERTS,
        "num_experts_per_tok": 4,
        "routed_scaling_factor": 1.0,
        "num_hidden_layers": 4,
        "sliding_window": 32,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "tie_word_embeddings": False,
    },
    "afmoe": {
        **EXPERTS,
        "num_hidden_layers": 4,
        "sliding_window": 32,
        "num_shared_experts": 1,
        "num_dense_layers": 1,
        "mup_enabled": True,
    },
    "gemma3n": {
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.95, 0.95],
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": VOCAB_SIZE,
        "intermediate_size": 2048,
    },
    "gemma4": {
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"],
        "global_head_dim": 32,
        "hidden_size_per_layer_input": 32,
        "vocab_size_per_layer_input": VOCAB_SIZE,
    },
    "gemma4moe": {
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"],
        "global_head_dim": 32,
        "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 4,  # as MiniMax's
        "moe_intermediate_size": 32,
    },
    "glm-dsa": LATENT
    | EXPERTS_OF_GLM
    | {
        "num_experts_per_tok": 4,
        "routed_scaling_factor": 1.0,
        "index_topk": 2048,
        "max_position_embeddings": 2048,
        "index_n_heads": 2,
        "index_head_dim": 128,  # llama.cpp turns it by a matrix of 64 or more
        "tie_word_embeddings": False,
    },
    "mistral4": LATENT
    | EXPERTS_OF_GLM
    | {
        "num_experts_per_tok": 4,  # as MiniMax's
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "llama4": LLAMA4,
    "llama4-128": LLAMA4 | {"num_local_experts": 128, "num_experts_per_tok": 128, "use_qk_norm": False},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 0.5},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 4},  # as MiniMax's
        "tie_word_embeddings": False,
    },
    "chameleon": {
        "vocab_size": VOCAB_SIZE + len(range(4, 8196)),
        "vocabulary_map": {f"IMGIMG{id}Z": id for id in range(4, 8196)},
        "vq_config": {
            **dict.fromkeys(("base_channels", "embed_dim", "latent_channels"), 32),
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
        },
    },
    "mimo2": {
        "num_hidden_layers": 3,
        "head_dim": 24,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 4,  # as MiniMax's
        "moe_intermediate_size": 32,
        "sliding_window": 32,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "tie_word_embeddings": False,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 1 / 3},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1 / 3},
        },
    },
    "gptneox": {"tie_word_embeddings": False},
    "kimi-linear": {
        "num_key_value_heads": 4,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 16,
        "linear_head_dim": 16,
        "linear_num_heads": 4,
        "num_local_experts": 4,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 32,
        "layer_types": ["linear_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse"],
        "tie_word_embeddings": False,
    },
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
        "mamba_num_heads": 6,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "ssm_state_size": 16,
        "time_step_min": 1e-30,
        "tie_word_embeddings": False,
    },
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_state": 16, "mamba_n_groups": 2},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "intermediate_size": 64,
    },
    "falcon-h1": {
        "mamba_d_ssm": 96,
        "mamba_n_heads": 6,
        "mamba_d_state": 16,
        "mamba_n_groups": 2,
    },
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 16},
    "bitnet": {"hidden_act": "silu"},
    "apertus": {
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 12_000_000.0},
    },
    "falcon-40b": {"num_kv_heads": 2, "new_decoder_architecture": True},
}  # keys beside those that every tiny model has
UNSAID = {"chameleon": range(4, 8196)}  # tokens of pictures, which are in no text
NAMES_OF_SIZES = {  # that a config has for common keys
    "mpt": {"max_position_embeddings": "max_seq_len"},
    "dbrx": {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "max_seq_len",
    },
}
WITHOUT_ATTENTION = (
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "max_position_embeddings"),
)
WITHOUT = {  # common keys that a config doesn't have
    **dict.fromkeys(("mistral4", "glm-dsa"), ("head_dim",)),
    "gpt2": ("head_dim", "num_key_value_heads", "intermediate_size"),
    "starcoder": ("head_dim", "num_key_value_heads", "intermediate_size"),
    "gptneox": ("head_dim", "num_key_value_heads"),
    "falcon": ("head_dim", "num_key_value_heads", "intermediate_size"),
    "falcon-40b": ("head_dim", "num_key_value_heads", "intermediate_size"),
    "bloom": ("head_dim", "num_key_value_heads", "intermediate_size", "max_position_embeddings"),
    "mpt": ("head_dim", "num_key_value_heads", "intermediate_size"),
    "dbrx": ("head_dim", "num_key_value_heads", "intermediate_size"),
    **dict.fromkeys(("jamba", "chameleon"), ("head_dim",)),
    "solar_open": ("intermediate_size",),
    "kimi-linear": ("head_dim",),
    **dict.fromkeys(("mamba", "falcon-mamba", "mamba2"), WITHOUT_ATTENTION),
}

QWEN_PICTURES = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "out_hidden_size": 64,
}
# What is beside text in the models that transformers has no class for the language model alone of.
PICTURES: dict[str, dict[str, Any]] = {
    "qwen3vl": QWEN_PICTURES | {"deepstack_visual_indexes": [0]},
    "qwen3vlmoe": QWEN_PICTURES | {"deepstack_visual_indexes": [0]},
    "paddleocr": {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
    },
}

MULTIPLIED: dict[str, Any] = {  # Falcon H1's weights, which files have times these
    "tie_word_embeddings": False,
    "embedding_multiplier": 5.5,
    "lm_head_multiplier": 0.25,
    "mlp_multipliers": [0.5, 0.7],
    "key_multiplier": 0.4,
    "attention_in_multiplier": 1.5,
    "attention_out_multiplier": 0.9,
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.3,
    "ssm_multipliers": [0.35, 0.5, 0.8, 1.4, 0.6],
}
DEEP_GEMMA3N: dict[str, Any] = {  # layers from the 20th on use the keys of others
    "num_hidden_layers": 25,
    "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 5,
    "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 15,
    "num_kv_shared_layers": 5,
}

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# As Qwen2's: AutoTokenizer builds that family's own pre-tokenizer whatever tokenizer.json says, so that
# any other would read differently through AutoTokenizer than through the file.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)

CORPUS = (
    "You are a helpful gardener who keeps an old tree nursery and answers in plain words.",
    "When should I plant an apple tree? Plant it in late autumn, once the leaves fall and before frost.",
    "How deep does the hole have to be? As deep as the roots, twice as wide; the graft stays above ground.",
    "Water it well in the first summer, a full can every week, and keep the grass away from the trunk.",
    "Why are the leaves of my pear turning yellow? The soil may be too wet, or the tree lacks iron.",
    "Prune in winter while the tree sleeps. Cut dead wood first, then branches that cross, then step back.",
    "A young oak grows slowly above the ground because it is busy below; be patient with it.",
    "The quick brown fox jumps over the lazy dog, and nobody in the orchard is surprised.",
    "In 1987 the storm took 23 of our 40 walnut trees; we planted 120 new ones between 1988 and 1995.",
    "def area(width, height):\n    return width * height\n",
    "What is the capital of France? The capital of France is Paris.",
    "Write a short poem about rain.\nRain on the leaves, rain on stone, the garden drinks and sings alone.",
    "你是谁？我是这个老苗圃的看守人，我照看这里的每一棵树。",
    "什么时候修剪苹果树？冬天修剪，那时树在睡觉。",
    "Der Apfelbaum blüht im Mai; l'été, les pommes mûrissent; ¿cuándo se recogen?",
    'system user assistant {"role": "user", "content": "Hello, how are you today?"}',
    "Thank you very much for your question! I would say that it depends on the weather, as always.",
)


@lru_cache(maxsize=1)
def _tokenizer_json() -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, "the corpus is too small for the vocabulary"
    return tokenizer.to_str()


def tiny_tokenizer(chat_template: str | None = CHATML, unsaid: range = range(0)) -> Any:
    """A byte-level BPE tokenizer of 600 tokens: ``<|endoftext|>`` 0 (bos, pad), ``<|im_start|>`` 1,
    ``<|im_end|>`` 2 (eos). ``unsaid``: ids that are tokens of pictures, before those of the words after them.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    told = json.loads(_tokenizer_json())
    ids = told["model"]["vocab"]
    for word, id in ids.items():
        ids[word] = id + len(unsaid) if id in unsaid or id >= unsaid.stop > 0 else id
    ids |= {f"IMGIMG{id}Z": id for id in unsaid}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(told)),
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_config(arch: str, **changes: Any) -> Any:
    """The transformers config of a two-layer model: hidden 64, 4 query heads, 2 key/value heads of 16."""
    import transformers

    classes = {
        "llama": transformers.LlamaConfig,
        "mistral": transformers.MistralConfig,
        "ministral": transformers.MinistralConfig,
        "mixtral": transformers.MixtralConfig,
        "qwen2moe": transformers.Qwen2MoeConfig,
        "qwen3moe": transformers.Qwen3MoeConfig,
        "olmoe": transformers.OlmoeConfig,
        "granitemoe": transformers.GraniteMoeConfig,
        "granitemoe-shared": transformers.GraniteMoeSharedConfig,
        "mistral3": transformers.Ministral3Config,
        "lfm2": transformers.Lfm2Config,
        "lfm2moe": transformers.Lfm2MoeConfig,
        "ernie4_5-moe": transformers.Ernie4_5_MoeConfig,
        "qwen35": transformers.Qwen3_5TextConfig,
        "qwen35moe": transformers.Qwen3_5MoeTextConfig,
        "phi2": transformers.PhiConfig,
        "helium": transformers.HeliumConfig,
        "glm4moe": transformers.Glm4MoeConfig,
        "solar_open": transformers.SolarOpenConfig,
        "dots1": transformers.Dots1Config,
        "gpt-oss": transformers.GptOssConfig,
        "mimo2": transformers.MiMoV2FlashConfig,
        "hunyuan-moe": transformers.HunYuanMoEV1Config,
        "deepseek2": transformers.DeepseekV2Config,
        "deepseek3": transformers.DeepseekV3Config,
        "glm4_moe_lite": transformers.Glm4MoeLiteConfig,
        "youtu": transformers.YoutuConfig,
        "minicpm3": transformers.MiniCPM3Config,
        "granitehybrid": transformers.GraniteMoeHybridConfig,
        "mamba": transformers.MambaConfig,
        "kimi-linear": transformers.KimiLinearConfig,
        "nemotron_h": transformers.NemotronHConfig,
        "bamba": transformers.BambaConfig,
        "jamba": transformers.JambaConfig,
        "falcon-h1": transformers.FalconH1Config,
        "mamba2": transformers.Mamba2Config,
        "falcon-mamba": transformers.FalconMambaConfig,
        "granitehybridmoe": transformers.GraniteMoeHybridConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
        "gemma2": transformers.Gemma2Config,
        "gemma3": transformers.Gemma3TextConfig,
        "chatglm": transformers.GlmConfig,
        "glm4": transformers.Glm4Config,
        "arcee": transformers.ArceeConfig,
        "smollm3": transformers.SmolLM3Config,
        "granite": transformers.GraniteConfig,
        "ernie4_5": transformers.Ernie4_5Config,
        "hunyuan-dense": transformers.HunYuanDenseV1Config,
        "seed_oss": transformers.SeedOssConfig,
        "olmo2": transformers.Olmo2Config,
        "olmo": transformers.OlmoConfig,
        "olmo3": transformers.Olmo3Config,
        "nemotron": transformers.NemotronConfig,
        "exaone4": transformers.Exaone4Config,
        "phi3": transformers.Phi3Config,
        "stablelm": transformers.StableLmConfig,
        "starcoder2": transformers.Starcoder2Config,
        "command-r": transformers.CohereConfig,
        "cohere2": transformers.Cohere2Config,
        "gemma": transformers.GemmaConfig,
        "qwen3vl": transformers.Qwen3VLConfig,
        "qwen3vlmoe": transformers.Qwen3VLMoeConfig,
        "gemma3n": transformers.Gemma3nTextConfig,
        "glm-dsa": transformers.GlmMoeDsaConfig,
        "mistral4": transformers.Mistral4Config,
        "llama4": transformers.Llama4TextConfig,
        "llama4-128": transformers.Llama4TextConfig,
        "gemma4": transformers.Gemma4TextConfig,
        "gemma4moe": transformers.Gemma4TextConfig,
        "qwen3next": transformers.Qwen3NextConfig,
        "minimax-m2": transformers.MiniMaxM2Config,
        "exaone-moe": transformers.ExaoneMoeConfig,
        "afmoe": transformers.AfmoeConfig,
        "paddleocr": transformers.PaddleOCRVLConfig,
        "internlm3": transformers.InternLM3Config,
        "iquestcoder": transformers.IQuestCoderConfig,
        "cwm": transformers.CwmConfig,
        "jais2": transformers.Jais2Config,
        "bitnet": transformers.BitNetConfig,
        "apertus": transformers.ApertusConfig,
        "gpt2": transformers.GPT2Config,
        "starcoder": transformers.GPTBigCodeConfig,
        "gptneox": transformers.GPTNeoXConfig,
        "falcon": transformers.FalconConfig,
        "falcon-40b": transformers.FalconConfig,
        "bloom": transformers.BloomConfig,
        "mpt": transformers.MptConfig,
        "dbrx": transformers.DbrxConfig,
        "chameleon": transformers.ChameleonConfig,
    }
    values: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    values = {name: value for name, value in values.items() if name not in WITHOUT.get(arch, ())}
    for common, own in NAMES_OF_SIZES.get(arch, {}).items():
        values[own] = values.pop(common)
    values |= OF_KIND.get(arch, {})
    if arch in ("gemma2", "gemma3"):
        # one sliding and one full layer, and a window short enough for a test to notice it
        layers = ["sliding_attention", "full_attention"]
        values |= {"sliding_window": 32, "query_pre_attn_scalar": 16, "layer_types": layers}
    values |= changes
    if arch in PICTURES:
        tied = values["tie_word_embeddings"]
        return classes[arch](text_config=values, vision_config=PICTURES[arch], tie_word_embeddings=tied)
    return classes[arch](**values)


def tiny_model(arch: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A random model of ``arch`` in fp32 and eval mode, not on disk."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    whole = (
        AutoModelForImageTextToText if arch in (*PICTURES, "mistral4", "chameleon") else AutoModelForCausalLM
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = whole.from_config(tiny_config(arch, **changes), dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or name.endswith(
                ("_norm.weight", "_norm.bias")
            ):  # norms and biases start constant; a test should notice a mix-up
                parameter.data += 0.1 * torch.randn_like(parameter)
                if (
                    arch in ("nemotron", "qwen35", "qwen35moe")
                    and name.endswith("norm.weight")
                    and "_attn.norm" not in name
                ):
                    parameter.data -= 1  # the model adds 1: its norms weigh about 1, as those of others
            elif "embed" not in name:
                # of two experts that are almost as likely, rounding may choose the other: each says little
                strength = 0.04 if name.endswith(("experts.down_proj", "experts.mlp.w2")) else 0.12
                if (arch, name) == ("kimi-linear", "lm_head.weight"):
                    strength = 0.06  # its logits are large, and so is their rounding
                parameter.data = torch.randn_like(parameter) * strength
        kept = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            if name in kept:  # what routers add to scores
                buffer += 0.1 * torch.randn(buffer.shape)
    return model.eval()


def tiny_model_dir(arch: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Save a random two-layer model of ``arch`` (see `IN_GGUF`) with its tokenizer under ``folder``.

    Args:
        arch: one of `IN_GGUF`, another kind of its llama, or helium.
        folder: parent folder, for example `tmp_path`; the model's own folder is ``folder / f"tiny-{arch}"``.
        seed: of the weights.
        changes: keys of the transformers config (for example ``tie_word_embeddings=False``).

    Returns:
        The model's folder.
    """
    path = Path(folder) / f"tiny-{arch}"
    model = tiny_model(arch, seed, **changes)
    model.generation_config.eos_token_id = [2]
    model.save_pretrained(path)
    tiny_tokenizer(unsaid=UNSAID.get(arch, range(0))).save_pretrained(path)
    return path


def tiny_llama(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """`tiny_model_dir` for the architecture that most tests want."""
    return tiny_model_dir("llama", folder, seed=seed, **changes)
