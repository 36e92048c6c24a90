"""Visual question answering: the paper's models and ablations, and our offline recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

from scanomaly.config.fit import FitOptions
from scanomaly.config.vqa import (
    FormerConfig,
    Fusion,
    LanguageConfig,
    Slots,
    VisualConfig,
    VqaConfig,
    VqaDataConfig,
    VqaRun,
)

PAPER = "KQ-Former VQA-UAD, MICCAI 2024 (arXiv 2404.07622)"
PAPER_DATA = VqaDataConfig(colour="bgr")
"""Released code: OpenCV's channel order, another crop for each image."""

ENCODERS: Mapping[str, tuple[VisualConfig, str]] = {
    "vit": (VisualConfig(side=224), "ViT-B/16"),
    "resnet": (
        VisualConfig(name="resnet50.tv2_in1k", kind="cnn", stage=3, upsample=299),
        "ResNet-50",
    ),
}
"""Ending of a preset's name -> encoder, the paper's word for it."""
CHANNEL_QUERIES = 96
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
PUBLISHED_FUSIONS: tuple[Fusion, ...] = ("concat", "channel")
"""Of KQ-Former."""

IMAGE_TYPES: Mapping[str, tuple[Slots, str]] = {
    "image-three-times": (("image", "image", "image"), "Orig_Orig_Orig"),
    "image-only": (("image", "blank", "blank"), "Orig_Black_Black"),
    "no-reconstruction": (("image", "anomaly_map", "blank"), "Orig_Anomaly_Black"),
    "no-map": (("image", "blank", "reconstruction"), "Orig_Black_Recon"),
    "map-only": (("anomaly_map", "blank", "blank"), "Anomaly_Black_Black"),
}
"""Ending of a preset's name -> what its three places hold, the released code's word for it."""
CHANNEL_SLOTS: Mapping[str, Slots] = {"no-map": ("image", "reconstruction", "blank")}
"""Where the channel models' places differ from the others' (spec section 3)."""
IMAGE_TYPE_ABLATION = "ablation of image types: "
CHANNEL_SOURCES: Mapping[str, str] = {
    "image-three-times": "our extension: the image three times",
    "image-only": f"{IMAGE_TYPE_ABLATION}1",
    "no-reconstruction": f"{IMAGE_TYPE_ABLATION}2",
}
"""Where the released code has another word for the channel models, or none."""


def _run(name: str, where: str, config: VqaConfig, data: VqaDataConfig = PAPER_DATA) -> VqaRun:
    return VqaRun(preset=name, source=f"{PAPER}, {where}", config=config, data=data)


def _config(fusion: Fusion, encoder: str, *, former: bool = True, slots: Slots) -> VqaConfig:
    queries = CHANNEL_QUERIES if fusion == "channel" else FormerConfig().queries
    return VqaConfig(
        visual=ENCODERS[encoder][0],
        former=FormerConfig(queries=queries) if former else None,
        fusion=fusion,
        slots=slots,
    )


ALL_THREE: Slots = ("image", "anomaly_map", "reconstruction")


def _kqf(fusion: Fusion, encoder: str) -> VqaRun:
    where = f"Table 1: KQ-Former, {fusion}, {ENCODERS[encoder][1]}"
    if fusion == "average":
        where = f"our extension: KQ-Former, mean of the three sets, {ENCODERS[encoder][1]}"
    return _run(f"kqf-{fusion}-{encoder}", where, _config(fusion, encoder, slots=ALL_THREE))


def _mi(fusion: Fusion, encoder: str) -> VqaRun:
    where = f"Table 1: multi-image baseline, {fusion}, {ENCODERS[encoder][1]}"
    config = _config(fusion, encoder, former=False, slots=ALL_THREE)
    return _run(f"mi-{fusion}-{encoder}", where, config)


def _image_type(fusion: Fusion, images: str) -> VqaRun:
    slots, word = IMAGE_TYPES[images]
    what = f"{IMAGE_TYPE_ABLATION}{word}"
    if fusion == "channel":
        slots = CHANNEL_SLOTS.get(images, slots)
        what = CHANNEL_SOURCES.get(images, what)
    where = f"{what}, KQ-Former, {fusion}, ViT-B/16"
    return _run(f"kqf-{fusion}-vit-{images}", where, _config(fusion, "vit", slots=slots))


def _open_set(fusion: Fusion, ending: str) -> VqaRun:
    """Without the six unseen kinds in training; with the anomaly map, or without."""
    run = _image_type(fusion, "no-map") if ending else _kqf(fusion, "vit")
    with_map = "without" if ending else "with"
    return _run(
        f"kqf-{fusion}-vit-open-set{ending}",
        f"Table 2: open set, KQ-Former, {fusion}, ViT-B/16, {with_map} anomaly maps",
        run.config,
        PAPER_DATA.model_copy(update={"exclude_unseen": True}),
    )


NO_MAP = "-no-map"
OPEN_SET_ENDINGS = ("", NO_MAP)

OFFLINE_PICTURE, OFFLINE_SIDE = 160, 144
"""Of the phantom's pictures, and of the crop: little is left beside a head."""
OFFLINE_WIDTH = 128
RANDOM: Mapping[str, Any] = {"weights": "random", "width": OFFLINE_WIDTH, "heads": 4}
OFFLINE_DATA = VqaDataConfig(
    resize=OFFLINE_PICTURE,
    crop=OFFLINE_SIDE,
    jitter=0.1,
    joint_crop=True,
    mirror=True,
    items="triples",
)
OFFLINE_FIT = FitOptions(
    epochs=11,
    batch_size=8,
    learning_rate=6e-4,
    optimiser="adamw",
    schedule="warm_up_cosine",
    warm_up=0.1,
    weight_decay=0.05,
    gradient_clip=1.0,
    precision="bf16",
)


def _offline(name: str, what: str, config: VqaConfig, data: VqaDataConfig = OFFLINE_DATA) -> VqaRun:
    source = f"ours: {what} at small scale, see docs/benchmarks.md"
    return VqaRun(preset=name, source=source, config=config, data=data, fit=OFFLINE_FIT)


def offline_config() -> VqaConfig:
    """KQ-Former concat on an ImageNet CNN; a small BERT and GPT-2 that know no language yet."""
    return VqaConfig(
        visual=VisualConfig(
            name="tf_efficientnet_lite0.in1k", kind="cnn", stage=3, positions=True, frozen=True
        ),
        former=FormerConfig(
            name="small-bert",
            layers=2,
            hidden=512,
            positions=64,
            dropout=0.0,
            head_hidden=256,
            **RANDOM,
        ),
        decoder=LanguageConfig(
            name="small-gpt2", tokenizer="words", layers=3, positions=256, dropout=0.0, **RANDOM
        ),
        loss="first_tokens",
        greedy=True,
    )


def kqf_offline() -> VqaRun:
    return _offline("kqf-offline", "KQ-Former concat", offline_config())


def mi_average_offline() -> VqaRun:
    config = offline_config().model_copy(update={"former": None, "fusion": "average"})
    return _offline("mi-average-offline", "multi-image baseline, average,", config)


def kqf_offline_image_only() -> VqaRun:
    config = offline_config().model_copy(update={"slots": IMAGE_TYPES["image-only"][0]})
    return _offline("kqf-offline-image-only", "KQ-Former concat on the image alone", config)


def kqf_offline_open_set(ending: str) -> VqaRun:
    """Our Table 2: with the anomaly map, or without."""
    slots = IMAGE_TYPES["no-map"][0] if ending else ALL_THREE
    return _offline(
        f"kqf-offline-open-set{ending}",
        f"open set, KQ-Former concat {'without' if ending else 'with'} anomaly maps",
        offline_config().model_copy(update={"slots": slots}),
        OFFLINE_DATA.model_copy(update={"exclude_unseen": True}),
    )


VQA_PRESETS: Mapping[str, Callable[[], VqaRun]] = {
    **{f"kqf-{f}-{e}": partial(_kqf, f, e) for e in ENCODERS for f in FUSIONS},
    **{f"mi-{f}-{e}": partial(_mi, f, e) for e in ENCODERS for f in FUSIONS},
    **{
        f"kqf-{fusion}-vit-{images}": partial(_image_type, fusion, images)
        for fusion in PUBLISHED_FUSIONS
        for images in IMAGE_TYPES
    },
    **{
        f"kqf-{fusion}-vit-open-set{ending}": partial(_open_set, fusion, ending)
        for fusion in PUBLISHED_FUSIONS
        for ending in OPEN_SET_ENDINGS
    },
    "kqf-offline": kqf_offline,
    "mi-average-offline": mi_average_offline,
    "kqf-offline-image-only": kqf_offline_image_only,
    **{
        f"kqf-offline-open-set{ending}": partial(kqf_offline_open_set, ending)
        for ending in OPEN_SET_ENDINGS
    },
}
"""Every named experiment of `scanomaly vqa fit`."""
