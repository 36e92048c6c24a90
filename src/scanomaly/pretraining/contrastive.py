"""CLIP's contrastive loss on open_clip's own network, with every pair of equal facts as a match.

Beside it, if the recipe says so, what the patch tokens learn: from another network, and which
places do not belong.

B pairs, W processes, T tokens, E width of features
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from scanomaly.errors import ConfigError
from scanomaly.pretraining.distillation import Distillation
from scanomaly.pretraining.foreign import Foreign
from scanomaly.pretraining.pairs import PairBatch
from scanomaly.pretraining.patches import RememberingDropout, patch_tokens
from scanomaly.pretraining.recipe import Recipe

HIGHEST_SCALE = math.log(100)


def make_network(recipe: Recipe) -> Any:
    """open_clip's CLIP with seeded random values. Raises ConfigError without open_clip."""
    try:
        import open_clip
    except ImportError as error:
        raise ConfigError(
            f"pretraining a CLIP needs open_clip ({error}): `pip install 'scanomaly[clip]'`."
        ) from error
    torch.manual_seed(recipe.fit.seed)
    network = open_clip.CLIP(**recipe.sizes.model_dump())
    network.visual.patch_dropout = RememberingDropout(recipe.patch_dropout)
    return network


class Contrast(nn.Module):
    """The loss of a batch, and the features it compares."""

    def __init__(self, network: Any, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        vision = recipe.sizes.vision_cfg
        sizes = vision.width, vision.image_size // vision.patch_size
        own, foreign = recipe.distillation, recipe.foreign
        self.distillation = None if own is None else Distillation(own, *sizes)
        self.foreign = None if foreign is None else Foreign(foreign, *sizes)
        lessons = (own, foreign)
        self._blocks = sorted({b for each in lessons if each is not None for b in each.blocks})
        self.side = vision.image_size
        self._mean, self._std = torch.tensor([recipe.mean, recipe.std])[:, :, None, None]

    def image_features(self, images: Tensor) -> Tensor:
        """Unit vectors (B, E) of images (B, 3, S, S) in 0..1."""
        normalised = (images - self._mean.to(images.device)) / self._std.to(images.device)
        return F.normalize(self.network.encode_image(normalised).float(), dim=-1)

    def text_features(self, ids: Tensor) -> Tensor:
        """Unit vectors (B, E) of ids (B, T), T up to the context."""
        network, count = self.network, ids.shape[1]
        embedded = network.token_embedding(ids) + network.positional_embedding[:count]
        tokens = network.transformer(embedded, attn_mask=network.attn_mask[:count, :count])
        ends = ids.argmax(dim=1)  # the end token has the highest id
        rows = tokens.take_along_dim(ends[:, None, None], dim=1)[:, 0]
        return F.normalize((network.ln_final(rows) @ network.text_projection).float(), dim=-1)

    def loss(self, batch: PairBatch) -> Tensor:
        """Cross-entropy over the batch of all processes, both ways; plus what patch tokens learn.

        Simulated patients share few facts: images whose captions say the same are no mistake, so
        they share the target (UniCL, arXiv 2204.03610).
        """
        batch = batch.to(self.network.logit_scale.device)
        images, foreign = batch.images(self.side), None
        if self.foreign is not None:
            images, foreign = self.foreign.paste(images)
        with patch_tokens(self.network, self._blocks) as tokens:
            image = _of_all_processes(self.image_features(images))
        text = _of_all_processes(self.text_features(batch.ids))
        kind = _of_all_processes(batch.kind)
        with torch.autocast(image.device.type, enabled=False):
            scale = self.network.logit_scale.clamp(max=HIGHEST_SCALE).exp()
            logits = scale * image @ text.T  # (W B, W B)
            same = (kind[:, None] == kind).float()
            target = same / same.sum(dim=1, keepdim=True)
            loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        kept = self.network.visual.patch_dropout.kept
        if self.distillation is not None:
            loss = loss + self.distillation.loss(images, tokens, kept)
        if self.foreign is not None and foreign is not None:
            loss = loss + self.foreign.loss(tokens, kept, foreign)
        return loss


def _of_all_processes(own: Tensor) -> Tensor:
    """(B, ...) -> (W B, ...), with gradients to the own part.

    Every process computes the whole loss, so the own part's gradient is whole; DDP then divides
    what reaches the towers by W, which the hook makes up for.
    """
    if not torch.distributed.is_initialized():
        return own
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    parts = [torch.empty_like(own) for _ in range(world)]
    torch.distributed.all_gather(parts, own.detach().contiguous())
    parts[rank] = own
    if own.requires_grad:
        own.register_hook(lambda gradient: gradient * world)
    return torch.cat(parts)


def count_values(network: nn.Module) -> int:
    """How many values a saved network holds."""
    return sum(value.numel() for value in network.state_dict().values())
