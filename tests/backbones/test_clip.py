"""Both towers of a CLIP: what they compute, hooks, precision, where they come from."""

import copy
from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor, nn

from scanomaly.backbones.base import TokenHook
from scanomaly.backbones.clip import Clip, ClipText, ClipVision, build_clip, tokenize
from scanomaly.config.backbones import ClipConfig
from scanomaly.methods.base import Detector
from tiny_clip import MEAN, NAME, STD, TINY_CLIP, changed, make_clip, save_clip

FULL = "ViT-L-14-336/openai"
SENTENCES = ["a photo of a normal brain.", "a photo of a damaged retinal OCT in the scene."]


@pytest.fixture
def config(tmp_path: Path) -> ClipConfig:
    return ClipConfig(name=NAME, weights=str(save_clip(tmp_path / "tiny")))


@pytest.fixture
def clip(config: ClipConfig) -> Clip:
    return build_clip(config)


@pytest.fixture
def image() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_both_towers_agree_with_open_clip(clip: Clip, image: Tensor) -> None:
    stock = make_clip()
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        pooled = stock.encode_image((image - mean) / std)
        blocks = stock.visual.forward_intermediates((image - mean) / std, indices=[1, 3])
        sentences = stock.encode_text(tokenize(SENTENCES))
    features = clip.vision.extract(image, [1, -1])
    _close(features.pooled, pooled)
    for found, expected in zip(features.maps(), blocks["image_intermediates"], strict=True):
        _close(found, expected)
    _close(clip.text.encode(tokenize(SENTENCES)), sentences)


def test_sizes(clip: Clip) -> None:
    vision, text = clip
    assert (vision.depth, vision.width(0), vision.patch, vision.side) == (4, 16, 8, 32)
    assert (vision.grid, vision.embed_dim) == ((4, 4), 12)
    assert (text.depth, text.width, text.context, text.embed_dim) == (3, 8, 77, 12)
    assert text.positions.shape == (77, 8)
    assert text.embed(tokenize(SENTENCES)).shape == (2, 77, 8)


def test_each_image_and_each_sentence_is_on_its_own(clip: Clip, image: Tensor) -> None:
    together = clip.vision.extract(image, [-1])
    for index, one in enumerate(image):
        alone = clip.vision.extract(one[None], [-1])
        _close(alone.patches[0][0], together.patches[0][index])
        assert together.pooled is not None
        _close(alone.pooled, together.pooled[index : index + 1])
    ids = tokenize([*SENTENCES, "brain"])
    _close(torch.cat([clip.text.encode(row[None]) for row in ids]), clip.text.encode(ids))


def test_a_run_from_any_block_equals_extract(clip: Clip, image: Tensor) -> None:
    vision = clip.vision
    whole = vision.extract(image, [0, 1, 2, 3])
    tokens = vision.start(image)
    assert tokens.shape == (3, 17, 16)
    for first in range(4):
        part = vision.run(tokens, [3], first=first)
        assert torch.equal(part.patches[0], whole.patches[3])
        assert torch.equal(part.prefix[0], whole.prefix[3])
        _close(part.pooled, whole.pooled)  # type: ignore[arg-type]
        tokens = torch.cat([whole.prefix[first], whole.patches[first]], dim=1)


def test_a_run_refuses_what_cannot_be(clip: Clip, image: Tensor) -> None:
    tokens = clip.vision.start(image)
    with pytest.raises(ValueError, match=r"blocks \[1, 3\] were asked for, but .* enter block 2"):
        clip.vision.run(tokens, [1, -1], first=2)
    with pytest.raises(ValueError, match="15 patches are no square; give their grid"):
        clip.vision.run(tokens[:, 1:], [0])
    with pytest.raises(ValueError, match="expected L = 15, got 16"):
        clip.vision.run(tokens, [0], grid=(3, 5))
    with pytest.raises(ValueError, match="block 4 does not exist"):
        clip.vision.extract(image, [4])


def test_it_stops_after_the_last_block_that_is_needed(clip: Clip, image: Tensor) -> None:
    run: list[int] = []
    for index, block in enumerate(clip.vision.network.transformer.resblocks):
        block.mlp.register_forward_hook(lambda *_, index=index: run.append(index))
    features = clip.vision.extract(image, [0, 2])
    assert run == [0, 1, 2]
    assert features.pooled is None
    assert clip.vision.extract(image, []).patches == ()
    assert run == [0, 1, 2]


def test_a_hook_reaches_later_blocks_and_gets_gradients(clip: Clip, image: Tensor) -> None:
    scale = torch.tensor(0.5, requires_grad=True)
    seen: list[int] = []

    def hook(block: int, tokens: Tensor) -> Tensor:
        seen.append(block)
        return tokens * scale if block == 1 else tokens

    plain = clip.vision.extract(image, [1, 3])
    hooked = clip.vision.extract(image, [1, 3], after_block=hook)
    assert seen == [0, 1, 2, 3]
    assert torch.equal(plain.patches[0], hooked.patches[0])
    assert plain.patches[0].grad_fn is None
    assert not torch.allclose(plain.patches[1], hooked.patches[1], atol=1e-3)
    assert hooked.pooled is not None
    hooked.pooled.square().sum().backward()
    assert scale.grad is not None
    assert scale.grad.abs() > 0
    assert not any(p.requires_grad or p.grad is not None for p in clip.vision.parameters())


def test_what_a_hook_makes_of_the_last_block_is_pooled(clip: Clip, image: Tensor) -> None:
    last = clip.vision.depth - 1
    hooked = clip.vision.extract(
        image, [last], after_block=lambda block, x: -x if block == last else x
    )
    plain = clip.vision.extract(image, [last])
    assert torch.equal(plain.patches[0], hooked.patches[0])
    network = clip.vision.network
    _close(hooked.pooled, network.ln_post(-plain.prefix[0][:, 0]) @ network.proj)


def test_gradients_reach_the_image(clip: Clip, image: Tensor) -> None:
    image.requires_grad_()
    clip.vision.extract(image, [1]).patches[0].square().sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("height", "width", "grid"), [(37, 37, (4, 4)), (30, 30, (3, 3)), (40, 18, (5, 2))]
)
def test_sides_that_are_no_multiple_lose_their_last_pixels(
    clip: Clip, height: int, width: int, grid: tuple[int, int]
) -> None:
    image = torch.rand(1, 3, height, width)
    features = clip.vision.extract(image, [0, 3])
    assert features.grids == (grid, grid)
    assert features.patches[0].shape == (1, grid[0] * grid[1], 16)
    kept = image[..., : grid[0] * 8, : grid[1] * 8]
    _close(clip.vision.extract(kept, [3]).patches[0], features.patches[1])


def test_the_papers_clip_at_full_size() -> None:
    with torch.device("meta"):
        network = open_clip.CLIP(**open_clip.get_model_config("ViT-L-14-336"))
    vision = ClipVision(network.visual, (0.0,) * 3, (1.0,) * 3, side=240)
    del network.visual
    text = ClipText(network)
    assert vision.grid == (17, 17)
    assert (vision.depth, vision.width(-1), vision.embed_dim) == (24, 1024, 768)
    assert (text.depth, text.width, text.context, text.embed_dim) == (12, 768, 77, 768)
    assert sum(p.numel() for p in vision.parameters()) == 304_293_888
    assert sum(p.numel() for p in text.parameters()) == 123_650_305
    features = vision.to("meta").extract(
        torch.empty(2, 3, 240, 240, device="meta"), [5, 11, 17, 23]
    )
    assert [tokens.shape for tokens in features.patches] == [(2, 289, 1024)] * 4
    assert features.pooled is not None
    assert features.pooled.shape == (2, 768)
    rows = text.run(torch.empty(2, 14, 768, device="meta"))
    assert text.finish(rows[:, 13]).shape == (2, 768)


def test_an_image_smaller_than_a_patch_is_refused(clip: Clip, config: ClipConfig) -> None:
    with pytest.raises(ValueError, match="7x32 is smaller than one patch of 8x8; resize to 32"):
        clip.vision.extract(torch.rand(1, 3, 7, 32), [0])
    with pytest.raises(ValueError, match="smaller than one patch"):
        build_clip(config.model_copy(update={"side": 5}))


def test_a_prediction_before_training_does_no_harm(clip: Clip) -> None:
    image = torch.rand(1, 3, 40, 40)
    with torch.inference_mode():
        clip.vision.extract(image, [0])
    image.requires_grad_()
    clip.vision.extract(image, [0]).patches[0].sum().backward()


def test_a_cut_sequence_gives_the_same_rows(clip: Clip) -> None:
    """Causal: no row sees a later one."""
    text, ids = clip.text, tokenize(SENTENCES)
    sequence = text.embed(ids) + text.positions
    whole = text.run(sequence)
    assert whole.shape == (2, 77, 8)
    for count in (1, 9, 76):
        _close(text.run(sequence[:, :count]), whole[:, :count])
    ends = ids.argmax(dim=1)
    _close(text.encode(ids), text.finish(whole[torch.arange(2), ends]))
    sequence[:, 20:] += 1
    _close(text.run(sequence)[:, :20], whole[:, :20])


def test_a_hook_replaces_rows_of_the_sentence(clip: Clip) -> None:
    text = clip.text
    prompt = torch.randn(1, 1, 8, requires_grad=True)

    def replace(block: int, tokens: Tensor) -> Tensor:
        rows = prompt.expand(len(tokens), -1, -1)
        return torch.cat([tokens[:, :1], rows, tokens[:, 2:]], dim=1)

    sequence = text.embed(tokenize(SENTENCES)) + text.positions
    plain, hooked = text.run(sequence), text.run(sequence, after_block=replace)
    _close(hooked[:, 0], plain[:, 0])  # before the prompt
    assert not torch.allclose(hooked[:, 5], plain[:, 5], atol=1e-3)
    text.finish(hooked[:, 5]).square().sum().backward()
    assert prompt.grad is not None
    assert prompt.grad.abs().sum() > 0
    assert not any(p.requires_grad or p.grad is not None for p in text.parameters())


def _adding(block: int, tokens: Tensor) -> Tensor:
    return torch.cat([tokens[:, :1], tokens[:, 1:2] + block, tokens[:, 2:]], dim=1)


@pytest.mark.parametrize("hook", [None, _adding])
def test_rows_behind_a_beginning_equal_those_of_a_whole_sentence(
    clip: Clip, hook: TokenHook | None
) -> None:
    """Beginnings of 6 and of 4 rows; what pads the second is seen by nobody."""
    text = clip.text
    first, behind = torch.randn(2, 6, 8, requires_grad=True), torch.randn(3, 2, 5, 8)
    live = torch.tensor([6, 4])[:, None] > torch.arange(6)
    found = text.resume(behind, text.begin(first, live, after_block=hook))
    assert found.shape == behind.shape
    for sentence, length in enumerate((6, 4)):
        same = first[sentence, :length].expand(3, -1, -1)
        whole = text.run(torch.cat([same, behind[:, sentence]], dim=1), after_block=hook)
        _close(found[:, sentence], whole[:, length:])
    (gradient,) = torch.autograd.grad(found.square().sum(), first)
    assert not gradient[1, 4:].any()
    assert gradient[0].abs().amax(dim=1).min() > 1e-4
    assert gradient[1, :4].abs().amax(dim=1).min() > 1e-4


def test_a_detector_saves_neither_tower(clip: Clip) -> None:
    detector = nn.ModuleDict({"vision": clip.vision, "text": clip.text, "head": nn.Linear(2, 2)})
    assert Detector.frozen(detector) == list(clip)  # type: ignore[arg-type]
    fitted = Detector.fitted_state(detector)  # type: ignore[arg-type]
    assert fitted.keys() == {"head.weight", "head.bias"}


def test_sentences_that_cannot_be(clip: Clip) -> None:
    with pytest.raises(ValueError, match="expected at most 77 tokens, got 78"):
        clip.text.run(torch.zeros(1, 78, 8))
    beginning = clip.text.begin(torch.zeros(1, 70, 8), torch.ones(1, 70, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected at most 77 tokens, got 78"):
        clip.text.resume(torch.zeros(1, 1, 8, 8), beginning)
    with pytest.raises(ValueError, match=r"expected an end token \(49407\) in every row of ids"):
        clip.text.encode(torch.ones(1, 77, dtype=torch.int64))


def test_ids_are_clips() -> None:
    ids = tokenize(["A photo of a Normal <|class|>."])
    expected = [49406, 320, 1125, 539, 320, 5967, 27, 347, 1874, 91, 29, 269, 49407]
    assert (ids.shape, ids.dtype) == ((1, 77), torch.int64)
    assert ids[0, :13].tolist() == expected
    assert not ids[0, 13:].any()
    long = tokenize(["brain " * 100])
    assert long[0, -1] == 49407


def test_towers_never_leave_eval_mode(clip: Clip) -> None:
    holder = nn.ModuleList(clip).train()
    assert not any(module.training for tower in holder for module in tower.modules())
    assert not any(p.requires_grad for p in holder.parameters())


def _mixing(block: int, tokens: Tensor) -> Tensor:
    return 0.9 * tokens.float()  # what an fp32 adapter returns


def test_bf16_weights_give_bf16_features_under_any_autocast(clip: Clip, image: Tensor) -> None:
    vision, text = clip
    ids = tokenize(SENTENCES)
    exact, sentences = vision.extract(image, [3], after_block=_mixing), text.encode(ids)
    fingerprints = [copy.deepcopy(tower).fingerprint() for tower in clip]
    for tower in clip:
        tower.cast(torch.bfloat16)
    rounded = vision.extract(image, [3], after_block=_mixing)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = vision.extract(image, [3], after_block=_mixing)
        same = text.encode(ids)
    assert torch.equal(rounded.patches[0], inside.patches[0])
    assert torch.equal(text.encode(ids), same)
    pairs = [(rounded.patches[0], exact.patches[0]), (same, sentences)]
    for found, expected in [*pairs, (rounded.pooled, exact.pooled)]:
        assert found is not None
        assert expected is not None
        assert found.dtype == torch.bfloat16
        assert (found.float() - expected).norm() / expected.norm() < 0.04
    assert [tower.fingerprint() for tower in clip] == fingerprints
    assert text.run(torch.zeros(1, 5, 8)).dtype == torch.bfloat16  # fp32 prompts
    beginning = text.begin(torch.zeros(1, 5, 8), torch.ones(1, 5, dtype=torch.bool))
    assert text.resume(torch.zeros(2, 1, 3, 8), beginning).dtype == torch.bfloat16


def test_hooks_run_under_the_callers_autocast(clip: Clip, image: Tensor) -> None:
    """A trainable adapter in fp32 must be cast there, although the tower ignores autocast."""
    adapter = nn.Linear(16, 16)
    kinds: list[torch.dtype] = []

    def hook(block: int, tokens: Tensor) -> Tensor:
        kinds.append(adapter(tokens).dtype)
        return tokens

    clip.vision.cast(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        clip.vision.extract(image, [1], after_block=hook)
    assert kinds == [torch.bfloat16] * 2


def test_casting_back_restores_every_digit(clip: Clip) -> None:
    images, ids = torch.rand(2, 3, 40, 40), tokenize(SENTENCES)
    exact, sentences = clip.vision.extract(images, [3]).patches[0], clip.text.encode(ids)
    for tower in clip:
        tower.cast(torch.bfloat16).cast(torch.float32)
    assert torch.equal(clip.vision.extract(images, [3]).patches[0], exact)
    assert torch.equal(clip.text.encode(ids), sentences)
    clip.text.cast(torch.bfloat16).config = None
    with pytest.raises(ValueError, match="lost their digits"):
        clip.text.cast(torch.float32)


def test_fingerprints_tell_towers_apart(config: ClipConfig, clip: Clip, tmp_path: Path) -> None:
    again = build_clip(config)
    quick = build_clip(config.model_copy(update={"quick_gelu": True}))
    plain = build_clip(config.model_copy(update={"mean": (0.0,) * 3}))
    heads = changed(vision_cfg={"head_width": 4}, text_cfg={"heads": 4})
    other = build_clip(ClipConfig(name=NAME, weights=str(save_clip(tmp_path / "heads", heads))))
    vision = [c.vision.fingerprint() for c in (clip, again, quick, plain, other)]
    text = [c.text.fingerprint() for c in (clip, again, quick, plain, other)]
    assert vision[0] == vision[1]
    assert len(set(vision)) == 4
    assert text[0] == text[1] == text[3]  # it sees no image
    assert len(set(text)) == 3
    resized = build_clip(config.model_copy(update={"side": 24})).vision
    assert resized.grid == (3, 3)
    assert resized.fingerprint() == vision[0]


def test_the_configuration_alone_decides_the_activation(tmp_path: Path, image: Tensor) -> None:
    """OpenAI's own description says QuickGELU; the papers run these weights with the exact one."""
    sizes = {**TINY_CLIP, "quick_gelu": True}
    folder = save_clip(tmp_path / "quick", sizes, make_clip())
    for quick in (False, True):
        clip = build_clip(ClipConfig(name=NAME, weights=str(folder), quick_gelu=quick))
        stock, ids = make_clip(quick_gelu=quick), tokenize(SENTENCES)
        with torch.no_grad():
            _close(clip.text.encode(ids), stock.encode_text(ids))
            pooled = stock.encode_image(clip.vision.normalised(image))
        _close(clip.vision.extract(image, [-1]).pooled, pooled)


def test_normalisation_comes_with_the_weights_and_can_be_overridden(
    config: ClipConfig, clip: Clip, tmp_path: Path
) -> None:
    assert clip.vision.mean.flatten().tolist() == pytest.approx(MEAN)
    assert clip.vision.std.flatten().tolist() == pytest.approx(STD)
    given = config.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3})
    assert build_clip(given).vision.std.flatten().tolist() == [1.0] * 3
    silent = save_clip(tmp_path / "silent", preprocess_cfg=None)
    vision = build_clip(ClipConfig(name=NAME, weights=str(silent))).vision
    assert vision.mean.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)


def test_half_precision_files_are_read_as_fp32(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "half", network=make_clip().half())
    clip = build_clip(ClipConfig(name=NAME, weights=str(folder)))
    assert {p.dtype for tower in clip for p in tower.parameters()} == {torch.float32}


def test_towers_move_and_copy_whole(clip: Clip) -> None:
    """No tensor was left without values when the file was read."""
    for tower in clip:
        assert not any(t.is_meta for t in (*tower.parameters(), *tower.buffers()))
        copy.deepcopy(tower).to(torch.float64)
