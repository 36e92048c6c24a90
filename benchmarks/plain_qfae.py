"""QFAE written plainly from its specification: what `full_size_qfae.py` compares scanomaly with.

Stock timm models (with timm's fused attention) and torch only, in fp32: every block runs, one
network per patch size with its own copy of the weights, image and reconstruction one after the
other; the junction's two attentions stand as the formulas of section 3.2. Of scanomaly it takes
the configuration alone, and the names of the trained tensors, so that values can be copied over.

B images, Q queries, T context tokens, L patches, D width, h w patch grid
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from scanomaly.config.qfae import EncoderConfig, QFAEConfig, ViewsConfig

State = dict[str, Tensor]


def random_values(name: str) -> State:
    """The values that a backbone with weights="random" has, at the architecture's own sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state: State = timm.create_model(name, num_classes=0).state_dict()
    return state


def vision_transformer(name: str, values: State, own_copy: bool, **sizes: int) -> VisionTransformer:
    """timm's network, frozen, its values resampled by timm to an image or patch size."""
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0, **sizes)  # type: ignore[arg-type]
    assert isinstance(network, VisionTransformer)
    fitting = checkpoint_filter_fn(values, network)
    if own_copy:
        fitting = {key: value.clone() for key, value in fitting.items()}
    network.load_state_dict(fitting, assign=True)
    return network.requires_grad_(False).eval()


def heads_apart(x: Tensor, heads: int) -> Tensor:
    """(B, L, heads * d) -> (B, heads, L, d)."""
    apart: Tensor = x.unflatten(2, (heads, -1)).transpose(1, 2)
    return apart


class PlainEncoder(nn.Module):
    """Tapped blocks with their prefix tokens, one after the other, and a projection."""

    def __init__(self, config: EncoderConfig, side: int, width: int, own_copy: bool) -> None:
        super().__init__()
        name = config.backbone.name
        self.network = vision_transformer(name, random_values(name), own_copy, img_size=side)
        depth = len(self.network.blocks)
        self.blocks = [block % depth for block in config.blocks]
        self.projection = nn.Linear(self.network.embed_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, T, width)."""
        with torch.no_grad():
            outputs: Any = self.network.forward_intermediates(
                x,
                indices=sorted(self.blocks),
                return_prefix_tokens=True,
                output_fmt="NLC",
                intermediates_only=True,
            )
        by_block = dict(zip(sorted(self.blocks), outputs, strict=True))
        taps = [torch.cat([by_block[b][1], by_block[b][0]], dim=1) for b in self.blocks]
        projected: Tensor = self.projection(torch.cat(taps, dim=1))
        return projected


class PlainSelfAttention(nn.Module):
    """Causal; one key and value head for all query heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.sizes = heads, [width, width // heads, width // heads]
        self.query_key_value = nn.Linear(width, sum(self.sizes))
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, D) -> (B, Q, D)."""
        query, key, value = self.query_key_value(x).split(self.sizes, dim=2)
        query = heads_apart(query, self.heads)
        scores = query @ key[:, None].transpose(2, 3) / self.sizes[1] ** 0.5  # (B, heads, Q, Q)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, torch.finfo(scores.dtype).min)
        mixed = scores.softmax(dim=3) @ value[:, None]
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result


class PlainCrossAttention(nn.Module):
    """Attention to the context and to one learned key and value before it."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads, self.scale = heads, head_width**-0.25  # of both factors
        self.input_norm = nn.LayerNorm(width)
        self.null_key_value = nn.Parameter(torch.randn(2, head_width))
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width, 2 * inner, bias=False)
        self.output = nn.Linear(inner, width, bias=False)
        self.output_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B, Q, D), context (B, T, D) -> (B, Q, D)."""
        query = heads_apart(self.query(self.input_norm(x)), self.heads)
        key, value = self.key_value(context).chunk(2, dim=2)
        null_key, null_value = (
            row.expand(len(x), self.heads, 1, -1) for row in self.null_key_value
        )
        key = torch.cat([null_key, heads_apart(key, self.heads)], dim=2)
        value = torch.cat([null_value, heads_apart(value, self.heads)], dim=2)
        scores = (query * self.scale) @ (key * self.scale).transpose(2, 3)  # (B, heads, Q, 1 + T)
        mixed = scores.softmax(dim=3) @ value
        result: Tensor = self.output_norm(self.output(mixed.transpose(1, 2).flatten(2)))
        return result


class PlainJunction(nn.Module):
    """Self-attention, cross-attention, feed-forward; no residual connection."""

    def __init__(self, config: QFAEConfig) -> None:
        super().__init__()
        junction, width = config.junction, config.junction.width
        self.queries = nn.Parameter(torch.randn(1, junction.queries, width) * 1e-3)
        self.self_attention = PlainSelfAttention(width, junction.heads)
        self.cross_attention = PlainCrossAttention(width, junction.heads, junction.cross_head_width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(junction.dropout),
        )

    def forward(self, context: Tensor) -> Tensor:
        """(B, T, D) -> (B, Q, D)."""
        x = self.queries.expand(len(context), -1, -1)
        x = self.cross_attention(self.self_attention(x), context)
        result: Tensor = self.feed_forward(x)
        return result


def positions(width: int, side: int) -> Tensor:
    """Sin-cos table (side * side, width); the column fills the first half."""
    steps = torch.arange(width // 4, dtype=torch.float64)
    angles = torch.arange(side)[:, None] / 10000.0 ** (steps / (width / 4))
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = waves.repeat(side, 1), waves.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1).float()


class PlainDecoder(nn.Module):
    """Queries -> pixels; tokens inside are four registers, one class token, patches."""

    def __init__(self, config: QFAEConfig) -> None:
        super().__init__()
        decoder, width = config.decoder, config.decoder.width
        self.side, self.patch = config.grid, decoder.patch
        self.embed = nn.Linear(config.junction.width, width)
        self.register_tokens = nn.Parameter(torch.randn(1, 4, width) * 1e-3)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 1e-3)
        self.register_buffer("positions", positions(width, self.side), persistent=False)
        self.blocks = nn.Sequential(
            *(
                Block(width, decoder.heads, qkv_bias=True, norm_layer=nn.LayerNorm)
                for _ in range(decoder.depth)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.to_pixels = nn.Linear(width, 3 * self.patch**2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, D) -> (B, 3, H, W)."""
        batch = len(x)
        registers, first = (
            token.expand(batch, -1, -1) for token in (self.register_tokens, self.class_token)
        )
        x = torch.cat([registers, first, self.embed(x) + self.positions], dim=1)
        x = self.to_pixels(self.norm(self.blocks(x)))[:, 5:]
        x = x.reshape(batch, self.side, self.side, self.patch, self.patch, 3)
        return torch.einsum("bhwpqc->bchpwq", x).reshape(
            batch, 3, self.side * self.patch, self.side * self.patch
        )


class PlainQFAE(nn.Module):
    """Score, map and loss of images in 0..1, each from its own pass over all networks."""

    def __init__(self, config: QFAEConfig, *, own_copies: bool = True) -> None:
        super().__init__()
        self.config = config
        (encoder,) = config.encoders
        width = config.junction.width
        self.encoders = nn.ModuleList([PlainEncoder(encoder, config.side, width, own_copies)])
        self.bottleneck = PlainJunction(config)
        self.decoder = PlainDecoder(config)
        patches = sorted({*config.loss_views.patches, *config.score_views.patches})
        name = config.perceptual.backbone.name
        values = random_values(name)
        sizes = {"img_size": config.side}
        self.networks = nn.ModuleDict(
            {
                str(patch): vision_transformer(name, values, own_copies, patch_size=patch, **sizes)
                for patch in patches
            }
        )

    def load_trained(self, state: State) -> None:
        """Take the tensors that scanomaly's detector trains. Raises ValueError if names differ."""
        keys = self.load_state_dict(state, strict=False)
        missing = {key for key in keys.missing_keys if key in dict(self.trained())}
        if keys.unexpected_keys or missing:
            raise ValueError(f"trained tensors differ: {keys.unexpected_keys}, {missing}")

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad]

    def features(self, x: Tensor, patch: int, blocks: Sequence[int]) -> list[Tensor]:
        """(B, D, h, w) after each of the ascending blocks."""
        network = self.networks[str(patch)]
        assert isinstance(network, VisionTransformer)
        found: Any = network.forward_intermediates(x, indices=list(blocks), intermediates_only=True)
        return list(found)

    def maps(self, image: Tensor, views: ViewsConfig) -> Tensor:
        """M_i, the product over patch sizes of the upsampled distances: (I, B, 1, H, W)."""
        x = (image - self.config.mean[0]) / self.config.std[0]
        reconstruction = self.decoder(self.bottleneck(self.encoders[0](x)))
        product = torch.ones(len(views.blocks), len(x), 1, *x.shape[2:])
        for patch in views.patches:
            of_image = self.features(x, patch, views.blocks)
            of_reconstruction = self.features(reconstruction, patch, views.blocks)
            distances = [
                1 - F.cosine_similarity(a, b, dim=1)[:, None]
                for a, b in zip(of_image, of_reconstruction, strict=True)
            ]
            product = product * torch.stack(
                [F.interpolate(d, size=x.shape[2:], mode="bilinear") for d in distances]
            )
        return product

    def loss(self, image: Tensor) -> Tensor:
        """Mean over blocks, images and pixels."""
        return self.maps(image, self.config.loss_views).mean()

    @torch.no_grad()
    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,), mean over blocks of the maximum over pixels, and maps (B, 1, H, W)."""
        maps = self.maps(image, self.config.score_views)
        return maps.amax(dim=(2, 3, 4)).mean(dim=0), maps.mean(dim=0)
