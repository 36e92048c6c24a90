"""How facts about a case are said: several sentences for each, as a reader would dictate them.

Their look follows the answers of MI-VQA (arXiv 2404.07622): a verdict first, then what and where.
"""

from collections.abc import Mapping
from types import MappingProxyType

WORDINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # O1: false positives
        "false positives": (
            "Yes. Anomalies are observed in {places}.",
            "Yes. Healthy tissue is highlighted in {places}.",
            "Yes, there are false positives in {places}.",
        ),
        "no false positives": (
            "No.",
            "No, there are no false positives.",
        ),
        # O2: the reconstruction
        "removed": (
            "Yes.",
            "Yes, the {anomaly} {is} no longer visible.",
        ),
        "removed, blurred": (
            "Yes (however, the reconstruction is blurred).",
            "Yes, the {anomaly} {is} no longer visible, but the reconstruction is blurred.",
        ),
        "weakened": (
            "Partially. Remains of the {size}{anomaly} are visible in {place}.",
            "Partially (however, the {anomaly} {is} only attenuated).",
        ),
        "kept": (
            "No, the {size}{anomaly} {is} still visible in {place}.",
            "No ({anomaly} still visible).",
        ),
        "faithful": (
            "Yes.",
            "Yes, the healthy brain is reproduced.",
        ),
        "faithful, blurred": (
            "Yes (however, the reconstruction is blurred).",
            "Yes, the healthy brain is reproduced, but the reconstruction is blurred.",
        ),
        "altered": (
            "No, healthy tissue is altered.",
            "No (the reconstruction differs from the healthy input).",
        ),
        # O3: does the map show the disease
        "marked": (
            "Yes.",
            "Yes, the {size}{anomaly} in {place} {is} highlighted.",
        ),
        "partly marked": (
            "Yes (however, only partial marking of anomaly).",
            "Partially, only part of the {size}{anomaly} in {place} {is} highlighted.",
        ),
        "some marked": (
            "Yes (however, only {marked} of {count} lesions are marked).",
            "Partially, {marked} of {count} lesions are highlighted.",
        ),
        "not marked": (
            "No (not marked).",
            "No, the {size}{anomaly} in {place} {is} not highlighted.",
        ),
        "nothing to mark": (
            "Not applicable.",
            "Not applicable, the case is normal.",
        ),
        # O4: why a healthy region is highlighted
        "nothing to explain": (
            "Not applicable.",
            "Not applicable, no healthy region is highlighted.",
        ),
        "skull": (
            "The skull and scalp are highlighted in {place}, their thickness varies between "
            "healthy persons.",
            "In {place} skull and scalp are highlighted because the reconstruction does not follow "
            "their shape.",
        ),
        "cortex": (
            "The sulci are highlighted in {place}, their folding is a normal variation.",
            "In {place} the cortex is highlighted because its folding differs between healthy "
            "persons.",
        ),
        "wide ventricles": (
            "Ventricles probably appear wide because of the height of the slice.",
            "The ventricles are highlighted because they are wider than in the reconstruction, "
            "which is a normal variation.",
        ),
        "narrow ventricles": (
            "Ventricles probably appear narrow because of the height of the slice.",
            "The ventricles are highlighted because they are narrower than in the reconstruction, "
            "which is a normal variation.",
        ),
        "tissue": (
            "Normal tissue is highlighted in {place} because the reconstruction is less sharp "
            "there.",
            "In {place} the contrast of healthy tissue differs from the reconstruction.",
        ),
    }
)
"""Situation -> sentences that fit it equally well; some tell the size, so that most stay short."""

ANOMALY = "anomaly"
"""What an abnormality is called whose kind is not known."""

CALLED: Mapping[str, str] = MappingProxyType(
    {
        "posttreatment change": "post treatment change",
        "craniotomy": "bone flap",
        "resection": "resection cavity",
    }
)
"""Kinds whose visible sign has another name."""

PLURAL = frozenset({"lesions", "enlarged ventricles", "artefacts"})

SIZES = ("small ", "medium-sized ", "large ")
SIZE_LIMITS_MM = (18.0, 26.0)
"""Diameters where the next of SIZES begins; about a third of the simulated masses has each."""

SIDES: Mapping[str, str] = MappingProxyType(
    {"left": "left ", "right": "right ", "both": "bilateral ", "midline": "midline "}
)
