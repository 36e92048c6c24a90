"""The experiments of KQ-Former VQA: that each is what its name and source say."""

import pytest

from scanomaly.backbones.weights import INVENTORY
from scanomaly.config.run import backbone_names
from scanomaly.config.vqa import VqaRun
from scanomaly.presets import VQA_PRESETS, presets_by_weight, vqa_preset

DEIT, RESNET = "deit_base_patch16_224.fb_in1k", "resnet50.tv2_in1k"
BERT, GPT2 = "pritamdeka/BioBert-PubMed200kRCT", "openai-community/gpt2"
TABLE_1 = [
    f"{model}-{fusion}-{encoder}"
    for model in ("mi", "kqf")
    for fusion in ("average", "concat", "channel")
    for encoder in ("vit", "resnet")
]


@pytest.mark.parametrize("name", VQA_PRESETS)
def test_every_preset_is_a_run_of_that_name_that_comes_back(name, tmp_path):
    run = vqa_preset(name)
    assert isinstance(run, VqaRun)
    assert (run.preset, run.kind) == (name, "vqa")
    assert run.source
    run.save(tmp_path)
    assert VqaRun.load(tmp_path) == run


@pytest.mark.parametrize("name", VQA_PRESETS)
def test_the_weights_of_every_preset_are_in_the_inventory(name):
    names = backbone_names(vqa_preset(name))
    assert names
    assert set(names) <= INVENTORY.keys()


@pytest.mark.parametrize("name", TABLE_1)
def test_models_of_table_1(name):
    run = vqa_preset(name)
    model, fusion, encoder = name.split("-")
    assert run.config.fusion == fusion
    assert run.config.slots == ("image", "anomaly_map", "reconstruction")
    weights = [DEIT if encoder == "vit" else RESNET, *([BERT] if model == "kqf" else []), GPT2]
    assert backbone_names(run) == weights
    if run.config.former is not None:
        assert run.config.former.queries == (96 if fusion == "channel" else 32)
    upsample = None if encoder == "vit" else 299
    assert (run.config.visual.upsample, run.config.visual.stage) == (upsample, 3)
    assert (run.data.colour, run.data.joint_crop, run.data.items) == ("bgr", False, "questions")
    ours = name.startswith("kqf-average")
    assert ("our extension" in run.source) is ours
    assert ("Table 1" in run.source) is not ours


@pytest.mark.parametrize("fusion", ["concat", "channel"])
def test_ablations_change_the_places_alone(fusion):
    whole = vqa_preset(f"kqf-{fusion}-vit")
    places = {
        "image-three-times": ("image", "image", "image"),
        "image-only": ("image", "blank", "blank"),
        "no-reconstruction": ("image", "anomaly_map", "blank"),
        "no-map": ("image", "blank", "reconstruction"),
        "map-only": ("anomaly_map", "blank", "blank"),
    }
    if fusion == "channel":  # published: the reconstruction moves up
        places["no-map"] = ("image", "reconstruction", "blank")
    for ending, slots in places.items():
        run = vqa_preset(f"kqf-{fusion}-vit-{ending}")
        assert run.config == whole.config.model_copy(update={"slots": slots})
        assert (run.data, run.fit) == (whole.data, whole.fit)


WORDS = {
    "concat": {
        "image-three-times": "Orig_Orig_Orig",
        "image-only": "Orig_Black_Black",
        "no-reconstruction": "Orig_Anomaly_Black",
        "no-map": "Orig_Black_Recon",
        "map-only": "Anomaly_Black_Black",
    },
    "channel": {
        "image-only": "1",
        "no-reconstruction": "2",
        "no-map": "Orig_Black_Recon",
        "map-only": "Anomaly_Black_Black",
    },
}
"""Fusion -> ablation -> its name in the released code (spec section 3)."""


@pytest.mark.parametrize("fusion", WORDS)
def test_ablations_name_what_the_released_code_has(fusion):
    for ending, word in WORDS[fusion].items():
        source = vqa_preset(f"kqf-{fusion}-vit-{ending}").source
        assert f"ablation of image types: {word}, KQ-Former, {fusion}" in source


def test_channel_models_with_the_image_three_times_are_ours():
    source = vqa_preset("kqf-channel-vit-image-three-times").source
    assert "our extension: the image three times, KQ-Former, channel" in source
    assert "Orig" not in source


@pytest.mark.parametrize("start", ["kqf-concat-vit", "kqf-channel-vit", "kqf-offline"])
def test_the_open_set_pair_differs_in_the_map(start):
    with_map, without = vqa_preset(f"{start}-open-set"), vqa_preset(f"{start}-open-set-no-map")
    assert with_map.config.slots == ("image", "anomaly_map", "reconstruction")
    assert "anomaly_map" not in without.config.slots
    assert with_map.config.model_copy(update={"slots": without.config.slots}) == without.config
    assert with_map.data == without.data
    assert with_map.data.exclude_unseen
    assert not vqa_preset(start).data.exclude_unseen


def test_offline_presets_need_one_small_network_and_differ_as_they_say():
    whole = vqa_preset("kqf-offline")
    baseline, image = vqa_preset("mi-average-offline"), vqa_preset("kqf-offline-image-only")
    assert whole.config.fusion == "concat"
    assert backbone_names(whole) == ["tf_efficientnet_lite0.in1k"]
    assert baseline.config == whole.config.model_copy(update={"former": None, "fusion": "average"})
    assert image.config == whole.config.model_copy(update={"slots": ("image", "blank", "blank")})
    assert whole.data == baseline.data == image.data
    assert whole.fit == baseline.fit == image.fit


def test_weights_know_their_users():
    users = presets_by_weight()
    assert "kqf-concat-vit" in users[GPT2]
    assert "mi-concat-vit" not in users[BERT]
    assert {"qfae-offline", "kqf-offline"} <= set(users["tf_efficientnet_lite0.in1k"])
