"""Every published entry has its place: full-size keys and shapes, without values."""

import math
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from importing.published_files import Shapes, iqe_clip, kq_former, mvfa, qfae
from scanomaly.backbones.base import Backbone
from scanomaly.backbones.clip import Clip, ClipText, ClipVision, tokenize
from scanomaly.backbones.loading import create
from scanomaly.config.iqe_clip import IqeClipConfig
from scanomaly.config.mvfa import MVFAConfig
from scanomaly.config.qfae import QFAEConfig
from scanomaly.errors import CheckpointError
from scanomaly.importing import LAYOUTS
from scanomaly.importing.answerers import without_values
from scanomaly.importing.layout import Account, account
from scanomaly.importing.published import Published
from scanomaly.methods import MVFA, QFAE, IqeClip, reconstruction
from scanomaly.methods import iqe_clip as iqe_method
from scanomaly.presets import VQA_PRESETS
from scanomaly.records import Features
from scanomaly.vqa import visual
from scanomaly.vqa.kq_former import TIED, KqFormerVqa


def test_full_size_keys_are_the_published_ones():
    """Counts that the specifications state."""
    whole = qfae()
    assert (len(whole), sum(map(math.prod, whole.values()))) == (445, 356_122_112)
    assert sum(map(math.prod, mvfa().values())) == 2 * 6_291_456
    iqm = {name: shape for name, shape in iqe_clip().items() if name.startswith("iqm.")}
    assert sum(map(math.prod, iqm.values())) == 47_264_256
    parts = {
        start: sum(math.prod(s) for n, s in kq_former().items() if n.startswith(start)) / 1e6
        for start in ("img_encoder_q.", "qformer.", "decoder.transformer.")
    }
    expected = {"img_encoder_q.": 90.8, "qformer.": 84.4, "decoder.transformer.": 152.8}
    assert parts == pytest.approx(expected, abs=0.06)


class Encoder(Backbone):
    """The names and shapes of QFAE's frozen encoder, and zero tokens."""

    def __init__(self, frozen: Shapes) -> None:
        super().__init__((0.0,) * 3, (1.0,) * 3)
        self.network = nn.Module()
        for name, shape in frozen.items():
            *path, last = name.split(".")
            place = self.network
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            place.register_parameter(last, nn.Parameter(torch.empty(shape)))

    @classmethod
    def build(cls, config):
        raise NotImplementedError

    @property
    def depth(self):
        return 24

    def width(self, block):
        return 1024

    def extract(self, image, blocks, *, after_block=None):
        patches, prefix = (
            tuple(torch.zeros(len(image), count, 1024) for _ in blocks) for count in (256, 5)
        )
        return Features(patches, prefix, ((16, 16),) * len(blocks))


def full_qfae(monkeypatch) -> nn.Module:
    start = "encoders.0.model."
    frozen = {n.removeprefix(start): s for n, s in qfae().items() if n.startswith(start)}
    monkeypatch.setattr(reconstruction, "build_backbone", lambda config: Encoder(frozen))
    monkeypatch.setattr(reconstruction, "build_views", lambda config, p: [Encoder({}) for _ in p])
    return QFAE.build(QFAEConfig())


def full_clip() -> Clip:
    sizes = open_clip.get_model_config("ViT-L-14-336")
    network = open_clip.CLIP(sizes["embed_dim"], sizes["vision_cfg"], sizes["text_cfg"])
    vision = ClipVision(network.visual, (0.0,) * 3, (1.0,) * 3)
    del network.visual
    return Clip(vision, ClipText(network))


def full_mvfa(monkeypatch) -> nn.Module:
    return MVFA(MVFAConfig(object="Brain"), full_clip())


def full_iqe_clip(monkeypatch) -> nn.Module:
    with torch.device("cpu"):
        ids = tokenize(IqeClipConfig().sentences)
    monkeypatch.setattr(iqe_method, "tokenize", lambda sentences: ids)
    return IqeClip(IqeClipConfig(), full_clip())


def full_answerer(preset: str, monkeypatch) -> KqFormerVqa:
    class Tokenizer:
        eos_token_id = 50256

        def __len__(self) -> int:
            return 50257

    def empty(source):
        return create(source.name, {**source.arguments, "num_classes": 0}, empty=True)

    monkeypatch.setattr(visual, "filled", empty)
    config = without_values(VQA_PRESETS[preset]().config)
    return KqFormerVqa.build(config, Tokenizer())


def counted(name: str, model: Any, shapes: Shapes) -> Account:
    fitted = model.fitted_state()
    frozen = {k: v for k, v in model.state_dict().items() if k not in fitted}
    frozen |= {k: v for k, v in model.named_buffers() if k not in fitted}
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    published = Published(Path("published.pth"), "", tensors)
    return account(published, LAYOUTS[name], model.config, fitted, frozen)


@pytest.mark.parametrize(
    ("name", "build", "shapes", "compared", "made_here"),
    [
        ("qfae", full_qfae, qfae(), 343 + 1, set()),
        (
            "mvfa",
            full_mvfa,
            mvfa(),
            0,
            {"branch_ranges", "text_features", "localises"}
            | {f"banks.{i}.{part}" for i in range(4) for part in ("tokens", "owner")},
        ),
        ("iqe-clip", full_iqe_clip, iqe_clip(), 0, {"branch_ranges"}),
    ],
)
def test_a_full_size_detector_takes_every_entry(
    name, build, shapes, compared, made_here, monkeypatch
):
    with torch.device("meta"):
        model = build(monkeypatch)
    found = counted(name, model, shapes)
    assert model.fitted_state().keys() - found.taken.keys() == made_here
    assert len(found.compared) == compared
    left_out = set(found.left_out)
    assert left_out == {n for n in shapes if n.endswith("key.bias") or "text_projection" in n}
    joined = 1 if name == "iqe-clip" else 0
    assert len(found.taken) + compared + len(left_out) + joined == len(shapes)


WORDS = {
    f"fusion.former.model.embeddings.{kind}_embeddings.weight" for kind in ("word", "token_type")
}


@pytest.mark.parametrize("encoder", ["vit", "resnet"])
@pytest.mark.parametrize("fusion", ["concat", "channel", "average"])
@pytest.mark.parametrize("model", ["mi", "kqf"])
def test_a_full_size_answerer_takes_every_entry(model, fusion, encoder, monkeypatch):
    with torch.device("meta"):
        answerer = full_answerer(f"{model}-{fusion}-{encoder}", monkeypatch)
    shapes = kq_former(encoder, former=model == "kqf")
    found = counted("kqf", answerer, shapes)
    own = answerer.fitted_state().keys()
    assert own - found.taken.keys() == (WORDS if model == "kqf" else set())
    assert set(found.compared) == {TIED}
    unused = {
        *(n for n in shapes if ".head." in n and not n.startswith("qformer.embed_1.")),
        *(n for n in shapes if ".layer4." in n or "position_ids" in n or "word_emb" in n),
    }
    if (model, fusion) != ("kqf", "concat"):
        unused |= {n for n in shapes if n.startswith("qformer.embed_1.")}
    if (model, fusion) != ("mi", "concat"):
        unused |= {n for n in shapes if n.startswith("embed_img.")}
    assert set(found.left_out) == unused
    assert len(found.taken) + 1 + len(unused) == len(shapes)


def test_every_difference_is_listed(monkeypatch):
    with torch.device("meta"):
        model = full_mvfa(monkeypatch)
    shapes = {**mvfa(), "optimiser": (3,), "det_adapters.0.fc1.0.weight": (768, 512)}
    del shapes["seg_adapters.3.fc2.0.weight"]
    with pytest.raises(
        CheckpointError,
        match=r"1 keys missing \(seg_adapters.3.fc2.0.weight\); 1 keys unknown \(optimiser\); "
        r"1 shapes differ \(det_adapters.0.fc1.0.weight expected \(768, 1024\), "
        r"found \(768, 512\)\)",
    ):
        counted("mvfa", model, shapes)


def test_what_no_published_file_holds_is_named_as_ours(monkeypatch):
    with torch.device("meta"):
        answerer = full_answerer("kqf-channel-vit", monkeypatch)
        answerer.fusion.extra = nn.Parameter(torch.empty(2))
    with pytest.raises(CheckpointError, match=r"1 keys missing \(fusion.extra \(ours\)\)"):
        counted("kqf", answerer, kq_former("vit"))
