"""Captions: true of the image, many wordings, and not a word about anomalies."""

import re

import numpy as np
import pytest

from scanomaly.data.phantom import STYLES
from scanomaly.data.phantom.captions import FACTS, PICTURES, SENTENCES, SYNONYMS, caption

PROCEDURAL = tuple(name for name in STYLES if name != "brain")
BRAIN = {
    "modality": "brain MRI",
    "contrast": "FLAIR",
    "plane": "axial",
    "level": "basal ganglia",
    "anatomy": "brain",
}
ANOMALIES = re.compile(
    r"anomal|abnormal|unusual|normal|health|lesion|tumou?r|cancer|malign|metasta|mass|cyst|fluid"
    r"|diseas|ill\b|patholog|infarct|o?edema|resect|enlarge|artefact|artifact|detach|swell|cluster"
    r"|nodul|effusion|consolid|opaci|pneumon|dense|defect|damage|flaw|broken|perfect|blemish",
    re.IGNORECASE,
)


def facts_of(name: str, patients: int = 24) -> list[dict[str, str]]:
    style = STYLES[name]
    subjects = [style.subject(5, index) for index in range(patients)]
    diseased = [style.diseased(subject, index % 8) for index, subject in enumerate(subjects)]
    return [dict(slice_.facts) for slice_ in diseased if slice_]


@pytest.mark.parametrize("name", PROCEDURAL)
def test_captions_of_diseased_images_do_not_mention_it(name: str) -> None:
    rng = np.random.default_rng(0)
    for facts in facts_of(name):
        for _ in range(20):
            sentence = caption(facts, rng)
            assert not ANOMALIES.search(sentence), sentence


def test_nor_do_the_wordings() -> None:
    said = [*SENTENCES, *PICTURES, *SYNONYMS, *(way for ways in SYNONYMS.values() for way in ways)]
    assert not [words for words in said if ANOMALIES.search(words)]


def test_nor_those_of_the_brain() -> None:
    pytest.importorskip("nilearn")
    from scanomaly.data.phantom.styles.brain import LEVELS

    assert not [words for _, words in LEVELS if ANOMALIES.search(words)]
    facts = dict(STYLES["brain"].healthy(STYLES["brain"].subject(0, 0), 0).facts)
    assert not ANOMALIES.search(" ".join(facts.values()))
    assert caption(facts, np.random.default_rng(0))


def test_the_search_finds_what_it_looks_for() -> None:
    for words in ("a brain with a tumor", "healthy retina", "dense nuclei", "a flawless liver"):
        assert ANOMALIES.search(words)


def test_same_generator_same_caption() -> None:
    first, again = ([caption(BRAIN, np.random.default_rng(k)) for k in range(9)] for _ in range(2))
    assert first == again


def test_there_are_many_wordings_and_each_says_what_it_shows() -> None:
    rng = np.random.default_rng(1)
    sentences = {caption(BRAIN, rng) for _ in range(200)}
    assert len(sentences) > 60
    for sentence in sentences:
        assert re.search(r"brain|head|MR", sentence), sentence
        assert not re.search(r"[{}]|  |, ,|\ba [aeiou]", sentence), sentence
    for fact in ("FLAIR", "basal ganglia", "axial|transverse"):
        assert any(re.search(fact, sentence) for sentence in sentences)


@pytest.mark.parametrize("name", PROCEDURAL)
def test_facts_vary_between_images(name: str) -> None:
    facts = facts_of(name)
    varied = {key for key in facts[0] if len({one[key] for one in facts}) > 1}
    assert len(varied) >= 2
    assert "level" in varied


@pytest.mark.parametrize("fact", FACTS)
def test_missing_fact(fact: str) -> None:
    facts = {key: value for key, value in BRAIN.items() if key != fact}
    with pytest.raises(KeyError, match=fact):
        caption(facts, np.random.default_rng(0))


def test_other_facts_stay_unsaid() -> None:
    rng = np.random.default_rng(2)
    assert not any("secret" in caption({**BRAIN, "kind": "secret"}, rng) for _ in range(50))
