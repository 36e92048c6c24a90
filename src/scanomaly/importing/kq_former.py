"""KQ-Former VQA's published layout: Lightning 1.5 files of the whole model, all of it trained.

Source: specification, section 13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scanomaly.backbones.loading import Shapes
from scanomaly.config.experiment import Experiment
from scanomaly.importing.layout import VQA, Facts, Layout, Names, count_of

NAMES: Names = {
    "img_encoder_q.model": "encoder.network",
    "embed_img": "fusion.mix",
    "embed_img2": "fusion.reduce",
    "qformer.model": "fusion.former.model",
    "qformer.embed_1.head": "fusion.head",
    "decoder": "decoder",
}
ENCODERS: Mapping[str, str] = {"vit": "vit", "res": "cnn", "resnet": "cnn"}
"""End of a published folder's name -> kind of image encoder."""
FOLDER = re.compile(r"(MI|KQF)_(average|concat|channel)_(vit|res|resnet)", re.IGNORECASE)


def names(config: Any) -> Names:
    return NAMES


def facts(shapes: Shapes) -> Facts:
    vit = "img_encoder_q.model.cls_token" in shapes
    former = count_of(shapes, r"qformer\.model\.encoder\.layer\.(\d+)\.")
    return {
        "image encoder": "vit" if vit else "cnn",
        "layers of the former": former,
        "layers of the decoder": count_of(shapes, r"decoder\.transformer\.h\.(\d+)\."),
        "tokeniser": "gpt2",
    }


def facts_of(run: Experiment, dataset: str | None) -> Facts:
    config: Any = getattr(run, "config", None)
    former = config.former
    return {
        "image encoder": config.visual.kind,
        "model": "MI" if former is None else "KQF",
        "layers of the former": 0 if former is None else former.layers,
        "layers of the decoder": config.decoder.layers,
        "tokeniser": config.decoder.tokenizer,
        "fusion": config.fusion,
    }


def named(file: Path) -> Facts:
    """Published folders are called `KQF_concat_vit`; shapes alone do not tell the fusion."""
    found = FOLDER.fullmatch(file.resolve().parent.name)
    if found is None:
        return {}
    model, fusion, encoder = found.groups()
    kind = ENCODERS[encoder.lower()]
    return {"model": model.upper(), "fusion": fusion.lower(), "image encoder": kind}


KQ_FORMER = Layout(
    name="kqf",
    method=VQA,
    system="KQ-Former VQA",
    origin="code: github.com/compai-lab/miccai-2024-junli (no licence stated: ask its authors)",
    trained="split train of MI-VQA",
    chosen="the best validation loss",
    mark=r"img_encoder_q\.",
    names=names,
    facts=facts,
    facts_of=facts_of,
    left_out={
        r"img_encoder_q\.embed_[01]\.head\..*|qformer\.embed_0\.head\..*": "heads that the "
        "published models own and never use",
        r"qformer\.model\.embeddings\.(position_ids|word_embeddings\.weight)": "the former reads "
        "no words",
        r"decoder\.transformer\.h\.\d+\.(attn|crossattention)\.(masked_)?bias": "masks that older "
        "versions of transformers keep",
    },
    optional={
        r"img_encoder_q\.model\.layer4\..*": "ResNet-50's last stage is not run",
        r"embed_img\.[01]\.(weight|bias)": "only the baseline's concat mixes tokens",
        r"qformer\.embed_1\.head\..*": "only KQ-Former's concat has this head",
    },
    made_here=r"fusion\.former\.model\.embeddings\.(word|token_type)_embeddings\.weight",
    named=named,
)
