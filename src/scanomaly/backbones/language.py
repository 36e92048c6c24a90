"""BERT and GPT-2 with cross-attention, and their tokenisers, through transformers.

Networks to be trained, not frozen ones. Nothing is downloaded: weights come through
`backbones.loading` from where `scanomaly weights list` says. What has no pretrained values is drawn
from torch's generator, so a seed set before decides it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from scanomaly.backbones.loading import compare_shapes, read_state
from scanomaly.backbones.weights import WEIGHT_FILES, is_language, locate, weight_file
from scanomaly.config.backbones import PretrainedConfig
from scanomaly.config.vqa import FormerConfig, LanguageConfig
from scanomaly.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from transformers import (
        BertConfig,
        BertModel,
        GPT2Config,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
    )

END_TOKEN, UNKNOWN_TOKEN = "<|endoftext|>", "<|unknown|>"
DESCRIPTION, TOKENIZER_FILE = "config.json", "tokenizer.json"
WORDS = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What a word is: letters, digits or signs, with one blank before them, as GPT-2 cuts."""

PUBLISHED_SPREAD, PUBLISHED_WIDTH = 0.02, 768
"""Of BERT-base and GPT-2 small."""

State = dict[str, Tensor]


def _library(name: str = "transformers") -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"questions and answers need {name} ({error}): `pip install 'scanomaly[vqa]'`."
        ) from error


def build_bert(config: FormerConfig) -> BertModel:
    """A BERT with cross-attention in every layer; `layers` of them, without word embeddings.

    Made a decoder, as transformers asks: it sees later tokens only under a 4-D mask. Token types
    are zero. Raises WeightsError or ConfigError, which say what to do.
    """
    library = _library()
    described, state = _described_state(config, "bert", _without_heads)
    sizes = library.BertConfig(**described) if described else _bert_sizes(config)
    sizes.update(
        {
            "num_hidden_layers": config.layers,
            "is_decoder": True,
            "add_cross_attention": True,
            "use_cache": False,
            "vocab_size": 1,
            "type_vocab_size": 1,
        }
    )
    model: BertModel = library.BertModel(sizes, add_pooling_layer=False)
    for unused in (model.embeddings.word_embeddings, model.embeddings.token_type_embeddings):
        nn.init.zeros_(unused.weight)
        unused.requires_grad_(False)
    if state is not None:
        kept = {k: v for k, v in state.items() if _layer_of(k) < config.layers}
        _fill(model, kept, config, leave=("crossattention", "word_emb", "token_type_emb"))
    return model


def build_gpt2(config: LanguageConfig, vocabulary: int, end: int) -> GPT2LMHeadModel:
    """A GPT-2 with cross-attention in every block, for `vocabulary` tokens of which one is the end.

    Raises WeightsError or ConfigError, which say what to do.
    """
    library = _library()
    described, state = _described_state(config, "gpt2", _of_transformer)
    sizes = library.GPT2Config(**described) if described else _gpt2_sizes(config, vocabulary, end)
    if sizes.vocab_size != vocabulary:
        raise WeightsError(
            f"the weights of {config.name} know {sizes.vocab_size} tokens and the tokeniser has "
            f"{vocabulary}; take the {TOKENIZER_FILE} that came with the weights."
        )
    sizes.update({"add_cross_attention": True, "bos_token_id": end, "eos_token_id": end})
    model: GPT2LMHeadModel = library.GPT2LMHeadModel(sizes)
    if state is not None:
        _fill(model.transformer, state, config, leave=("cross",))
    return model


def build_tokenizer(config: LanguageConfig, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """The tokeniser that `config` names; one of words learns them from `texts`.

    Its end token is its padding. Raises WeightsError if the file beside the weights is missing.
    """
    return TOKENIZERS[config.tokenizer](config, texts)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """What `save_pretrained` left, or the tokenizer.json beside GPT-2's weights.

    Raises WeightsError if there is none, or a damaged one.
    """
    library = _library("tokenizers")
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        raise WeightsError(
            f"{folder} holds no {TOKENIZER_FILE}; copy it from where the weights came from."
        )
    try:
        return _with_end(library.Tokenizer.from_file(str(file)))
    except Exception as error:  # tokenizers raises bare Exception
        raise WeightsError(
            f"{file} cannot be read as a tokeniser ({error}); fetch it again."
        ) from error


def _with_end(tokenizer: Any) -> PreTrainedTokenizerFast:
    if tokenizer.token_to_id(END_TOKEN) is None:
        raise ValueError(f"it has no {END_TOKEN}")
    unknown = UNKNOWN_TOKEN if tokenizer.token_to_id(UNKNOWN_TOKEN) is not None else END_TOKEN
    wrapped: PreTrainedTokenizerFast = _library().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_TOKEN,
        eos_token=END_TOKEN,
        pad_token=END_TOKEN,
        unk_token=unknown,
        clean_up_tokenization_spaces=False,
    )
    return wrapped


def _word_tokenizer(config: LanguageConfig, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Every word of `texts` is a token, the more frequent ones first; decodes back exactly."""
    library = _library("tokenizers")
    split = library.pre_tokenizers.Split(library.Regex(WORDS), "isolated")
    starts = (start for text in texts for start in (text, f" {text}"))  # answers follow a blank
    counts = Counter(word for text in starts for word, _ in split.pre_tokenize_str(text))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    if not words:
        raise ConfigError("a tokeniser of words needs texts to learn from, got none.")
    numbers = {word: index for index, word in enumerate([END_TOKEN, UNKNOWN_TOKEN, *words])}
    tokenizer = library.Tokenizer(library.models.WordLevel(numbers, UNKNOWN_TOKEN))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = library.decoders.Fuse()
    return _with_end(tokenizer)


def _gpt2_tokenizer(config: LanguageConfig, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    weights = None if config.is_random else config.weights
    return load_tokenizer(_weights_of(config.model_copy(update={"weights": weights})).parent)


TOKENIZERS: Mapping[str, Callable[[LanguageConfig, Iterable[str]], PreTrainedTokenizerFast]] = {
    "gpt2": _gpt2_tokenizer,
    "words": _word_tokenizer,
}
"""`LanguageConfig.tokenizer` -> what makes it."""


def _bert_sizes(config: FormerConfig) -> BertConfig:
    sizes: BertConfig = _library().BertConfig(
        hidden_size=config.width,
        num_attention_heads=config.heads,
        intermediate_size=config.hidden,
        max_position_embeddings=config.positions,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        initializer_range=_spread(config.width),
        attn_implementation=_attention(config.width),
    )
    return sizes


def _gpt2_sizes(config: LanguageConfig, vocabulary: int, end: int) -> GPT2Config:
    sizes: GPT2Config = _library().GPT2Config(
        vocab_size=vocabulary,
        bos_token_id=end,
        eos_token_id=end,
        n_positions=config.positions,
        n_embd=config.width,
        n_layer=config.layers,
        n_head=config.heads,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        initializer_range=_spread(config.width),
        attn_implementation=_attention(config.width),
    )
    return sizes


def _attention(width: int) -> str:
    """transformers' name of two plain products for a small network: torch's own attention is slow
    in bf16 on a CPU (`python benchmarks/attention.py`)."""
    return "sdpa" if width >= PUBLISHED_WIDTH else "eager"


def _spread(width: int) -> float:
    """Standard deviation of random weights: that of BERT and GPT-2 at their own width, and as much
    wider for a narrower network that its layers begin as loud."""
    return PUBLISHED_SPREAD * math.sqrt(PUBLISHED_WIDTH / width)


def check_language(file: Path) -> list[str]:
    """Problems of a file of weights for transformers. Raises WeightsError if it is not one."""
    _read_description(file.with_name(DESCRIPTION))
    state = read_state(file)
    return [f"{key} holds NaN or infinity" for key, v in state.items() if not v.isfinite().all()]


def _weights_of(config: PretrainedConfig) -> Path:
    """The weight file. Raises WeightsError if there is none."""
    if config.weights is not None:
        given = Path(config.weights).expanduser()
        inside = [given / name for name in WEIGHT_FILES] if given.is_dir() else [given]
        found = next((file for file in inside if file.is_file()), None)
        if found is not None:
            return found
    elif not is_language(config.name):
        raise WeightsError(
            f"there are no known weights called {config.name!r}; take a name that `scanomaly "
            "weights list` shows, or set weights to a folder with yours."
        )
    return weight_file(locate(config.name, config.weights), config.name)


def _described_state(
    config: PretrainedConfig, kind: str, convert: Callable[[State], State]
) -> tuple[dict[str, Any], State | None]:
    """The fields of config.json and the values beside it; nothing for random weights."""
    if config.is_random:
        return {}, None
    file = _weights_of(config)
    described = _read_description(file.with_name(DESCRIPTION))
    if described["model_type"] != kind:
        raise WeightsError(
            f"{file.with_name(DESCRIPTION)} describes a {described['model_type']}, expected a "
            f"{kind}; give other weights."
        )
    return described, convert(read_state(file))


def _read_description(file: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        str(saved["model_type"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsError(
            f"{file} is no description of a transformers model ({error!r}); copy the {DESCRIPTION} "
            "that came with the weights."
        ) from error
    return saved


def _without_heads(state: State) -> State:
    """A BERT file's own encoder: no words, token types, pooler or classifier."""
    kept = re.compile(r"(?:bert\.)?(embeddings\.(?:position_embeddings|LayerNorm)\.|encoder\.)")
    return {k.removeprefix("bert."): v for k, v in state.items() if kept.match(k)}


def _of_transformer(state: State) -> State:
    """A GPT-2 file without the tied head and the masks that older versions kept."""
    named = {k.removeprefix("transformer."): v for k, v in state.items()}
    left_out = re.compile(r"lm_head\.weight|h\.\d+\.(?:attn|crossattention)\.(?:masked_)?bias")
    return {k: v for k, v in named.items() if not left_out.fullmatch(k)}


def _layer_of(key: str) -> int:
    """`encoder.layer.3.output.dense.bias` -> 3; -1 for what belongs to no layer."""
    found = re.match(r"encoder\.layer\.(\d+)\.", key)
    return int(found[1]) if found else -1


def _fill(model: nn.Module, state: State, config: PretrainedConfig, leave: tuple[str, ...]) -> None:
    """Load `state`; parameters with a word of `leave` in their name may keep their values."""
    wanted = {
        key: tuple(value.shape)
        for key, value in model.state_dict().items()
        if key in state or not any(word in key for word in leave)
    }
    found = {key: tuple(value.shape) for key, value in state.items()}
    differences = compare_shapes(wanted, found)
    if differences:
        raise WeightsError(
            f"the weights of {config.name} do not fit {type(model).__name__}: "
            f"{'; '.join(differences)}."
        )
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
