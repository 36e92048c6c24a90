"""The detectors. To add one: a file here, a line in METHODS, a config model in `config/`."""

from __future__ import annotations

from collections.abc import Mapping

from scanomaly.methods.autoencoder import Autoencoder
from scanomaly.methods.base import Detector
from scanomaly.methods.iqe_clip import IqeClip
from scanomaly.methods.mvfa import MVFA
from scanomaly.methods.outside import AnomalibDetector
from scanomaly.methods.prompted_clip import PromptedClip
from scanomaly.methods.qfae import QFAE

METHODS: Mapping[str, type[Detector]] = {
    "qfae": QFAE,
    "autoencoder": Autoencoder,
    "iqe_clip": IqeClip,
    "mvfa": MVFA,
    "prompted_clip": PromptedClip,
    "anomalib": AnomalibDetector,
}

__all__ = [
    "METHODS",
    "MVFA",
    "QFAE",
    "AnomalibDetector",
    "Autoencoder",
    "Detector",
    "IqeClip",
    "PromptedClip",
]
