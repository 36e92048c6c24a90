"""KQ-Former VQA and the multi-image baseline: an image encoder, a fusion, a language decoder.

Source: KQ-Former VQA-UAD (arXiv 2404.07622) and its specification, sections 4 to 9.

B triples, n texts, T tokens of a text, S side of an image, N tokens of the memory, D width
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanomaly.backbones.language import build_gpt2
from scanomaly.config.backbones import RANDOM_WEIGHTS
from scanomaly.config.vqa import FormerConfig, LanguageConfig, VqaConfig, VqaDataConfig
from scanomaly.errors import ConfigError
from scanomaly.vqa.base import Answerer, Generated
from scanomaly.vqa.decoding import (
    Continuation,
    Search,
    continue_prompts,
    distinct,
    log_probabilities,
)
from scanomaly.vqa.fusion import KqFormerFusion, build_fusion, pictures
from scanomaly.vqa.images import Images
from scanomaly.vqa.items import IGNORED, VqaBatch
from scanomaly.vqa.packing import Packing, Tokenizer
from scanomaly.vqa.visual import VisualEncoder, build_encoder, without_weights

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

TIED = "decoder.lm_head.weight"
"""The same tensor as the decoder's word embeddings."""
ANSWERS_AT_ONCE = 32


class KqFormerVqa(Answerer):
    """Both models of the paper; `config.former` None is the baseline.

    A batch of one trains too: norms of KQ-Former's head are over its tokens, and the published
    heads that would need more are not part of the model.
    """

    def __init__(
        self,
        config: VqaConfig,
        encoder: VisualEncoder,
        fusion: nn.Module,
        decoder: GPT2LMHeadModel,
        tokenizer: Tokenizer,
        data: VqaDataConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.data = data or VqaDataConfig()
        self.encoder = encoder
        self.fusion = fusion
        self.decoder: Any = decoder
        self.tokenizer = tokenizer
        self.packing = Packing(tokenizer, config.max_tokens)

    @classmethod
    def build(
        cls, config: VqaConfig, tokenizer: Tokenizer, data: VqaDataConfig | None = None
    ) -> Self:
        """With the pretrained weights that `config` names; what has none is drawn from torch's
        generator.

        Raises WeightsError or ConfigError, which say what to do.
        """
        encoder = build_encoder(config.visual)
        decoder = build_gpt2(config.decoder, len(tokenizer), int(tokenizer.eos_token_id))
        sizes = decoder.config
        if 2 * config.max_tokens > sizes.n_positions:  # padding takes positions too
            raise ConfigError(
                f"max_tokens {config.max_tokens} is more than half of the decoder's "
                f"{sizes.n_positions} positions; lower it."
            )
        fusion = build_fusion(config, encoder.width, encoder.tokens, sizes.n_embd)
        return cls(config, encoder, fusion, decoder, tokenizer, data)

    def without_weights(self) -> VqaConfig:
        """The configuration that builds the same sizes from random values: to be filled
        with a `fitted_state` where no pretrained weights are at hand."""
        former = self.config.former
        if former is not None and isinstance(self.fusion, KqFormerFusion):
            former = _bert_without_weights(former, self.fusion.former.model.config)
        return self.config.model_copy(
            update={
                "visual": without_weights(self.config.visual, self.encoder),
                "former": former,
                "decoder": _gpt2_without_weights(self.config.decoder, self.decoder.config),
            }
        )

    def memory(self, images: Images) -> Tensor:
        """What the decoder reads: (B, N, D), from images (B, 3, S, S) each, normalised."""
        seen = pictures(images, self.config.slots, self.config.fusion)
        tokens = self.encoder(torch.cat(list(seen.values()))).chunk(len(seen))
        named = dict(zip(seen, tokens, strict=True))
        order = ("channel",) if self.config.fusion == "channel" else self.config.slots
        memory: Tensor = self.fusion([named[slot] for slot in order])
        return memory.contiguous()

    def loss(self, batch: VqaBatch) -> Tensor:
        """As in `Answerer`; logits are computed at the targets alone, which changes no value."""
        memory = self.memory(batch.images)[batch.triple]
        hidden: Tensor = self.decoder.transformer(
            input_ids=batch.ids,
            attention_mask=batch.attention,
            encoder_hidden_states=memory,
            use_cache=False,
        ).last_hidden_state  # (n, T, D)
        targets = batch.labels[:, 1:]
        wanted = targets != IGNORED
        logits = self.decoder.lm_head(hidden[:, :-1][wanted]).float()
        losses = F.cross_entropy(logits, targets[wanted], reduction="none")
        weights = TOKEN_WEIGHTS[self.config.loss](wanted)
        return (losses * weights).sum() / weights.sum()

    def generate(
        self,
        images: Images,
        questions: Sequence[str],
        *,
        triple: Sequence[int] | None = None,
        alternatives: int = 1,
    ) -> list[Generated]:
        """As in `Answerer`; `alternatives` beyond `config.beams` are not looked for."""
        prompts = [self.packing.prompt(question) for question in questions]
        about = range(len(images[0])) if triple is None else triple
        if len(about) != len(prompts):
            raise ValueError(f"expected {len(about)} questions, one for each, got {len(prompts)}.")
        config = self.config
        search = Search(self.packing.end, config.max_tokens, config.beams)
        if config.reference_decoding:
            search, changed = search.like_reference()
            prompts = [changed(prompt) for prompt in prompts]
        alternatives = min(alternatives, search.beams)
        with self._predicting():
            memory = self.memory(images)
            asked = list(zip(prompts, about, strict=True))
            searches = [replace(search, beams=1)] if config.greedy else [search]
            if config.greedy and alternatives > 1:
                searches.append(search)
            found = [self._continued(asked, memory, each, alternatives) for each in searches]
        return [
            self._in_words(distinct(chain(*each))[:alternatives])
            for each in zip(*found, strict=True)
        ]

    def _continued(
        self,
        asked: Sequence[tuple[list[int], int]],
        memory: Tensor,
        search: Search,
        alternatives: int,
    ) -> list[list[Continuation]]:
        """asked: each prompt, and the row of `memory` (B, N, D) that it is about."""
        parts = (asked[i : i + ANSWERS_AT_ONCE] for i in range(0, len(asked), ANSWERS_AT_ONCE))
        return [
            each
            for part in parts
            for each in continue_prompts(
                self.decoder,
                [prompt for prompt, _ in part],
                memory[[row for _, row in part]],
                search,
                alternatives=min(alternatives, search.beams),
            )
        ]

    def _in_words(self, found: list[Continuation]) -> Generated:
        (best, *others) = (
            (self.packing.text(list(each.tokens)), each.log_probability) for each in found
        )
        return Generated(*best, others=tuple(others))

    def candidate_scores(self, images: Images, question: str, candidates: Sequence[str]) -> Tensor:
        """As in `Answerer`."""
        prompt = self.packing.prompt(question)
        answers = [self.packing.continuation(question, candidate) for candidate in candidates]
        count = len(images[0])
        with self._predicting():
            memory = self.memory(images).repeat_interleave(len(answers), dim=0)
            scores = log_probabilities(
                *(self.decoder, [prompt] * len(memory), answers * count, memory),
                self.packing.end,
            )
        return scores.view(count, len(answers))

    @contextmanager
    def _predicting(self) -> Iterator[None]:
        """Eval mode and no gradients, whatever was before."""
        training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.train(training)

    def fitted_state(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.state_dict().items() if name != TIED}


def _first_tokens(wanted: Tensor) -> Tensor:
    """1 / n for the n-th target of each text."""
    return wanted.cumsum(dim=1)[wanted].reciprocal()


TOKEN_WEIGHTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tokens": lambda wanted: wanted[wanted].float(),
    "first_tokens": _first_tokens,
}
"""`VqaConfig.loss` -> weights (t,) of the t targets in `wanted`, bool (n, T). Only the place in an
answer counts: weights by its length would make short answers likelier."""


def _bert_without_weights(config: FormerConfig, sizes: Any) -> FormerConfig:
    update = {
        "weights": RANDOM_WEIGHTS,
        "width": sizes.hidden_size,
        "heads": sizes.num_attention_heads,
        "hidden": sizes.intermediate_size,
        "positions": sizes.max_position_embeddings,
        "dropout": sizes.hidden_dropout_prob,
    }
    return config.model_copy(update=update)


def _gpt2_without_weights(config: LanguageConfig, sizes: Any) -> LanguageConfig:
    update = {
        "weights": RANDOM_WEIGHTS,
        "width": sizes.n_embd,
        "heads": sizes.n_head,
        "layers": sizes.n_layer,
        "positions": sizes.n_positions,
        "dropout": sizes.resid_pdrop,
    }
    return config.model_copy(update=update)
