"""Sentences about a simulated image: how it was taken and what it shows when healthy."""

import re
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

FACTS = ("modality", "contrast", "plane", "level", "anatomy")

SENTENCES = (
    "{picture} {modality}, {contrast}, {plane}, {level}",
    "{picture} {modality} of the {anatomy}, {contrast}",
    "{picture} {modality} at the level of {level}",
    "{picture} {anatomy} in {modality}, {plane}",
    "{modality}, {plane}, {contrast}, {anatomy}, {level}",
    "{contrast} {modality} of the {anatomy}",
    "{plane} {modality}, {level}",
    "{anatomy}, {modality}, {level}, {contrast}",
    "{picture} {modality}",
    "{picture} {anatomy}",
)
"""Wordings; every one names the modality or the anatomy."""

PICTURES = (
    *("a photo of a", "a photo of the", "a photo of one", "an image of a", "an image of the"),
    *("a scan of the", "a picture of a", "a close-up photo of a", "a cropped photo of the"),
    *("this is a", "this is the", "there is a", "a good photo of a", "a slice of"),
)

SYNONYMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "brain MRI": ("brain MRI", "MR image of the head", "brain magnetic resonance image"),
        "T1": ("T1-weighted", "T1", "T1 contrast"),
        "T2": ("T2-weighted", "T2", "T2 contrast"),
        "FLAIR": ("FLAIR-weighted", "FLAIR", "FLAIR contrast"),
        "axial": ("axial", "transverse", "axial plane"),
        "retinal OCT": ("retinal OCT", "optical coherence tomography of the retina", "retina OCT"),
        "right eye": ("retina of the right eye", "right eye", "retina", "layered retina"),
        "left eye": ("retina of the left eye", "left eye", "retina", "layered retina"),
        "abdominal CT": ("abdominal CT", "CT of the abdomen", "abdominal computed tomography"),
        "abdomen": ("abdomen", "liver", "upper abdomen"),
        "without contrast agent": ("without contrast agent", "native", "unenhanced"),
        "arterial phase": ("arterial phase", "early contrast phase"),
        "portal venous phase": ("portal venous phase", "contrast enhanced"),
        "stained tissue": ("stained tissue", "microscopy of tissue", "tissue under the microscope"),
        "hematoxylin and eosin": ("hematoxylin and eosin", "H&E stain", "pink and blue stain"),
        "chest radiograph": ("chest radiograph", "chest X-ray film", "chest X-ray"),
        "chest": ("chest", "chest and lungs", "thorax"),
    }
)
"""Fact -> ways to say it; other facts are said as they are."""


def caption(facts: Mapping[str, str], rng: np.random.Generator) -> str:
    """One sentence about the facts of a StyledSlice: some of them, in one of several wordings.

    facts: those of FACTS; others are not said. Raises KeyError where one is missing.
    """
    sentence = str(rng.choice(SENTENCES))
    words = {name: _said(facts[name], rng) for name in FACTS}
    said = sentence.format(picture=rng.choice(PICTURES), **words)
    return re.sub(r"\ba (?=[aeiou])", "an ", said)


def _said(fact: str, rng: np.random.Generator) -> str:
    ways = SYNONYMS.get(fact, (fact,))
    return ways[int(rng.integers(len(ways)))]
