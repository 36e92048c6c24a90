"""What a healthy image scores, from how its reconstruction looks.

B images, H W pixels
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BINS = 16
RIDGE = 10.0
LEAST_SPREAD = 0.01
"""Of a bin's share (square root): one that training images never fill must not weigh."""


class ExpectedScore(nn.Module):
    """Ridge regression of the log score on the grey-value histogram of the reconstruction.

    Reconstruction errors grow with the contrast of an image, healthy or not. The reconstruction
    shows that contrast without the anomaly. It never answers outside the scores it was fitted on.
    """

    centre: Tensor
    spread: Tensor
    weight: Tensor
    level: Tensor
    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("centre", "spread", "weight"):
            self.register_buffer(name, torch.zeros(BINS))
        for name in ("level", "low", "high"):
            self.register_buffer(name, torch.zeros(()))
        self.reset()

    def reset(self) -> None:
        """Expect 1 of every image."""
        for buffer in self.buffers():
            buffer.zero_()
        self.spread.fill_(1)

    def fit(self, shares: Tensor, score: Tensor) -> None:
        """Learn from healthy images: `grey_shares` of their reconstructions, scores (B,)."""
        shares = shares.double()
        target = score.double().clamp_min(1e-12).log()
        self.centre.copy_(shares.mean(dim=0))
        self.spread.copy_(shares.std(dim=0, correction=0).clamp_min(LEAST_SPREAD))
        scaled = (shares - self.centre) / self.spread
        gram = scaled.T @ scaled + RIDGE * torch.eye(BINS, dtype=scaled.dtype, device=scaled.device)
        self.weight.copy_(torch.linalg.solve(gram, scaled.T @ (target - target.mean())))
        self.level.copy_(target.mean())
        self.low.copy_(target.min())
        self.high.copy_(target.max())

    def forward(self, reconstruction: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> expected score (B,)."""
        scaled = (grey_shares(reconstruction) - self.centre) / self.spread
        return (self.level + scaled @ self.weight).clamp(self.low, self.high).exp()


def grey_shares(image: Tensor) -> Tensor:
    """Square roots of the shares of pixels in each of BINS grey ranges.

    image: (B, 3, H, W) in 0..1. Returns (B, BINS).
    """
    grey = image.float().mean(dim=1).flatten(1)
    bins = (grey * BINS).long().clamp(0, BINS - 1)
    counts = torch.zeros(len(grey), BINS, device=grey.device)
    counts.scatter_add_(1, bins, torch.ones_like(grey))
    return (counts / grey.shape[1]).sqrt()
