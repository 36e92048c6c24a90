"""Both methods on the papers' CLIP at its full size, with random weights: sizes and one image."""

import pytest
import torch
import torch.nn.functional as F

from scanomaly.backbones.clip import Clip
from scanomaly.config.backbones import ClipConfig
from scanomaly.config.iqe_clip import IqeClipConfig
from scanomaly.config.mvfa import MVFAConfig
from scanomaly.methods.clip_detector import load_clip
from scanomaly.methods.iqe_clip import IqeClip
from scanomaly.methods.mvfa import MVFA
from scanomaly.records import Batch

pytestmark = pytest.mark.slow

PUBLISHED = MVFAConfig().backbone
BACKBONE = ClipConfig(
    name="ViT-L-14-336/none",
    weights="random",
    side=PUBLISHED.side,
    mean=PUBLISHED.mean,
    std=PUBLISHED.std,
)
ADAPTER_VALUES = 12_582_912
IQM_VALUES = 47_264_256
KEY_BIASES = 4 * 3 * 768
"""Published, without any effect, and left out."""
LEVEL_MAPS = 4 * (1024 * 768 + 768)
CLASS_TOKENS = 2 * 768 + 2 * 3 + 2
PROMPTS = 12 * 768 + 768 * 768 + 768 + 2 * 768


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Built once: 428 million values."""
    return load_clip(MVFAConfig(backbone=BACKBONE))


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Batch(torch.rand(1, 3, 240, 240, generator=torch.Generator().manual_seed(0)), ("one",))


def assert_branch(found: torch.Tensor, *shape: int) -> None:
    assert found.shape == shape
    assert found.isfinite().all()


def test_mvfa(clip: Clip, batch: Batch) -> None:
    detector = MVFA(MVFAConfig(backbone=BACKBONE, object="Brain"), clip).eval()
    assert sum(p.numel() for p in detector.adapters.parameters()) == ADAPTER_VALUES
    trained = sum(p.numel() for p in detector.parameters() if p.requires_grad)
    assert trained == ADAPTER_VALUES - 2 * 768 * 1024  # the last way back leads nowhere
    text = F.normalize(torch.randn(768, 2, generator=torch.Generator().manual_seed(1)), dim=0)
    with torch.no_grad():
        levels = detector.levels(detector.first_tokens(batch.image))
        branches = detector.branches_of(levels, text)
    assert levels.keys() == {"seg", "det"}
    for tokens in (*levels["seg"], *levels["det"]):
        assert_branch(tokens, 1, 1 + 17 * 17, 768)
    assert [len(found) for found in levels.values()] == [4, 4]
    assert_branch(branches["zero_map"], 1, 1, 240, 240)
    assert_branch(branches["zero_score"], 1)
    assert branches["zero_map"].std() > 0


def test_iqe_clip(clip: Clip, batch: Batch) -> None:
    torch.manual_seed(0)
    detector = IqeClip(IqeClipConfig(backbone=BACKBONE), clip).eval()
    queries = detector.instance_queries
    assert queries is not None
    kept = IQM_VALUES - KEY_BIASES
    assert sum(p.numel() for p in queries.parameters()) == kept
    trained = sum(p.numel() for p in detector.parameters() if p.requires_grad)
    assert trained == kept + LEVEL_MAPS + 2 * CLASS_TOKENS + PROMPTS + 1  # the temperature
    with torch.no_grad():
        observation = detector.observe(batch.image)
        logits = detector.compare(observation)
        scored = detector.scored(logits)
    assert_branch(observation.pooled, 1, 768)
    assert [tokens.shape for tokens in observation.patches] == [(1, 17 * 17, 1024)] * 4
    assert logits.keys() == {"text", "query"}
    for found in logits.values():
        assert_branch(found, 4, 1, 17 * 17, 2)
    assert_branch(scored["map"], 1, 1, 240, 240)
    assert_branch(scored["score"], 1)
    assert scored["map"].std() > 0
