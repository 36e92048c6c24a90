"""Questions about a case: the right words for maps and reconstructions made to measure."""

import re
from dataclasses import replace

import numpy as np
import pytest

from scanomaly.data.phantom.evidence import Evidence, false_positives, regions
from scanomaly.data.phantom.places import zone
from scanomaly.data.phantom.questions import (
    KINDS,
    RELEVANCE,
    SEVERITIES,
    SliceFacts,
    question_answer_pairs,
)
from scanomaly.data.phantom.wordings import PLURAL, SIZES, WORDINGS
from scanomaly.questions import ANSWERS, QUESTIONS, UNSEEN_TYPES, classify, question_of

SIDE = 160
ROWS, COLUMNS = np.indices((SIDE, SIDE), dtype=np.float32)
LEFT_FRONTAL, RIGHT_OCCIPITAL = (48.0, 102.0), (122.0, 66.0)  # row, column
SKULL_RIGHT = (80.0, 24.0)
VENTRICLES = (78.0, 80.0)
MASS = SliceFacts(True, "mass lesion", "moderate", contrast="T1", height_mm=30.0)
HEALTHY = SliceFacts(False, "normal", contrast="T1", height_mm=30.0)


def disc(centre: tuple[float, float], radius: float) -> np.ndarray:
    return np.hypot(ROWS - centre[0], COLUMNS - centre[1]) < radius


def head() -> np.ndarray:
    """A head in T1: scalp, bone, brain with stripes for sulci, dark ventricles."""
    reach = np.hypot((ROWS - 80) / 74, (COLUMNS - 80) / 60)
    brain = 0.5 + 0.12 * np.sin(ROWS / 2) * np.sin(COLUMNS / 2)
    image = np.select([reach < 0.84, reach < 0.92, reach < 1.0], [brain, 0.05, 0.7], 0.0)
    image[disc(VENTRICLES, 9)] = 0.12
    return image.astype(np.float32)


def case(
    mask: np.ndarray | None,
    marked: np.ndarray,
    *,
    left: float = 0.0,
    blur: bool = False,
) -> Evidence:
    """A bright mass where the mask is; `left`: the share of it in the reconstruction."""
    healthy = head()
    reconstruction = healthy.copy()
    image = healthy.copy()
    if mask is not None:
        image[mask] += 0.4
        reconstruction[mask] += np.float32(0.4 * left)
    if blur:
        padded = np.pad(reconstruction, 4, mode="edge")
        views = np.lib.stride_tricks.sliding_window_view(padded, (9, 9))
        reconstruction = views.mean(axis=(2, 3)).astype(np.float32)
    map_ = 0.9 * marked.astype(np.float32)
    return Evidence(image, map_, 0.5, reconstruction, mask, healthy)


def answers(facts: SliceFacts, evidence: Evidence, seed: int = 0) -> dict[str, str]:
    pairs = question_answer_pairs(facts, evidence, np.random.default_rng(seed))
    return {question_of(question).name: answer for question, answer in pairs}


def every_wording(facts: SliceFacts, evidence: Evidence, name: str) -> set[str]:
    return {answers(facts, evidence, seed)[name] for seed in range(14)}


NOTHING = np.zeros((SIDE, SIDE), dtype=np.bool_)
LESION = disc(LEFT_FRONTAL, 12)


class TestClosed:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_answers_are_of_the_vocabulary(self, kind: str, severity: str) -> None:
        ill = kind != "normal"
        facts = SliceFacts(ill, kind, severity if ill else "", contrast="T2", height_mm=5.0)
        said = answers(facts, case(LESION if ill else NOTHING, LESION))
        assert list(said) == list(QUESTIONS)
        assert classify("C1", said["C1"]) == (0 if ill else 1)
        condition = classify("C2", said["C2"])
        assert condition == KINDS.index(kind)
        assert kind.replace(" ", "") in ANSWERS["C2"][condition].replace(" ", "")
        assert classify("C3", said["C3"]) is not None
        assert (said["C3"] == "Not applicable.") == (not ill)

    def test_relevance_never_falls_with_severity_and_uses_every_class(self) -> None:
        importance = {3: 0, 1: 1, 0: 2}
        for classes in RELEVANCE.values():
            ranks = [importance[c] for c in classes]
            assert ranks == sorted(ranks)
        assert {c for classes in RELEVANCE.values() for c in classes} == {0, 1, 3}
        assert set(RELEVANCE) == set(KINDS) - {"normal"}

    @pytest.mark.parametrize("kind", UNSEEN_TYPES)
    def test_unseen_kinds_are_asked_the_normal_question_only(self, kind: str) -> None:
        facts = SliceFacts(True, kind, "severe", contrast="T1", height_mm=10.0)
        assert answers(facts, case(LESION, LESION)) == {"C1": "No."}


class TestMaps:
    def test_a_hit(self) -> None:
        evidence = case(LESION, LESION)
        said = every_wording(MASS, evidence, "O3")
        assert "Yes." in said
        assert "Yes, the mass lesion in the left frontal region is highlighted." in said
        assert all(text.startswith("Yes") for text in said)
        assert all(text.startswith("No") for text in every_wording(MASS, evidence, "O1"))
        assert all(text.startswith("Not app") for text in every_wording(MASS, evidence, "O4"))

    def test_a_miss(self) -> None:
        said = every_wording(MASS, case(LESION, NOTHING), "O3")
        assert "No (not marked)." in said
        assert all(text.startswith("No") for text in said)

    def test_a_partial_mark(self) -> None:
        said = every_wording(MASS, case(LESION, LESION & (LEFT_FRONTAL[0] - 2 > ROWS)), "O3")
        assert "Yes (however, only partial marking of anomaly)." in said
        assert all("part" in text for text in said)

    def test_some_of_several_lesions(self) -> None:
        spots = [disc(place, 5) for place in (LEFT_FRONTAL, RIGHT_OCCIPITAL, (100.0, 110.0))]
        facts = SliceFacts(True, "lesions", "mild", contrast="T1", height_mm=30.0)
        said = every_wording(facts, case(np.any(spots, axis=0), spots[0] | spots[2]), "O3")
        assert "Yes (however, only 2 of 3 lesions are marked)." in said
        assert all("2 of 3 lesions" in text for text in said)
        whole = every_wording(facts, case(np.any(spots, axis=0), np.any(spots, axis=0)), "O3")
        assert all("of 3" not in text for text in whole)

    @pytest.mark.parametrize(
        ("place", "words"),
        [
            (LEFT_FRONTAL, "left frontal"),
            (RIGHT_OCCIPITAL, "right occipital"),
            ((80.0, 116.0), "left parietal sub-calvarial region"),
            (SKULL_RIGHT, "right parietal calvarial region"),
            (VENTRICLES, "midline periventricular region"),
        ],
    )
    def test_a_false_positive_is_placed(self, place: tuple[float, float], words: str) -> None:
        marked = disc(place, 5)
        for facts in (MASS, HEALTHY):
            mask = LESION if facts.abnormal else NOTHING
            if (mask & marked).any():
                continue
            said = every_wording(facts, case(mask, mask | marked), "O1")
            assert len(said) == len(WORDINGS["false positives"])
            assert all(text.startswith("Yes") and words in text for text in said)

    def test_sides_are_the_patients_own(self) -> None:
        mirrored = case(NOTHING, disc(LEFT_FRONTAL, 6)[:, ::-1])
        assert "right frontal" in answers(HEALTHY, mirrored)["O1"]

    def test_low_slices_have_temporal_regions(self) -> None:
        low = SliceFacts(False, "normal", contrast="T1", height_mm=2.0)
        assert "left temporal" in answers(low, case(NOTHING, disc((80.0, 112.0), 6)))["O1"]

    def test_marks_beside_the_lesion_and_specks_are_no_false_positives(self) -> None:
        wide = disc(LEFT_FRONTAL, 14)
        assert not false_positives(case(LESION, wide))
        assert not false_positives(case(LESION, LESION | disc(RIGHT_OCCIPITAL, 1.2)))
        assert len(false_positives(case(LESION, LESION | disc(RIGHT_OCCIPITAL, 4)))) == 1

    def test_two_places_are_both_named_the_larger_first(self) -> None:
        marked = disc(LEFT_FRONTAL, 8) | disc(RIGHT_OCCIPITAL, 5)
        text = answers(HEALTHY, case(NOTHING, marked))["O1"]
        assert re.search(r"left frontal.* and .*right occipital", text)

    def test_both_sides_are_bilateral(self) -> None:
        marked = disc(LEFT_FRONTAL, 7) | disc(LEFT_FRONTAL, 6)[:, ::-1]
        text = answers(HEALTHY, case(NOTHING, marked))["O1"]
        assert "the bilateral frontal region." in text
        assert " and " not in text

    def test_what_a_lesion_encloses_is_no_false_positive(self) -> None:
        ring = disc(VENTRICLES, 16) & ~disc(VENTRICLES, 12)
        facts = SliceFacts(True, "enlarged ventricles", "mild", contrast="T1", height_mm=20.0)
        said = every_wording(facts, case(ring, disc(VENTRICLES, 10)), "O1")
        assert all(text.startswith("No") for text in said)

    def test_verbs_agree(self) -> None:
        for kind, verb in (("lesions", "are"), ("edema", "is"), ("artefacts", "are")):
            facts = SliceFacts(True, kind, "mild", contrast="T1", height_mm=30.0)
            texts = every_wording(facts, case(LESION, NOTHING), "O3")
            assert any(re.search(rf"{kind} in .* {verb} not highlighted", text) for text in texts)

    def test_a_normal_case_has_nothing_to_mark(self) -> None:
        said = every_wording(HEALTHY, case(NOTHING, NOTHING), "O3")
        assert "Not applicable." in said
        assert all(text.startswith("Not applicable") for text in said)


class TestReasons:
    @pytest.mark.parametrize(
        ("place", "word"),
        [
            (SKULL_RIGHT, "scalp"),
            ((80.0, 116.0), "folding|sulci"),
            ((60.0, 105.0), "tissue"),
        ],
    )
    def test_what_lies_under_the_mark(self, place: tuple[float, float], word: str) -> None:
        for text in every_wording(HEALTHY, case(NOTHING, disc(place, 4)), "O4"):
            assert re.search(word, text), text

    @pytest.mark.parametrize("contrast", ["T1", "FLAIR", "T2"])
    @pytest.mark.parametrize("wider", [True, False])
    def test_ventricles_against_the_reconstruction(self, contrast: str, wider: bool) -> None:
        large, small = disc(VENTRICLES, 14), disc(VENTRICLES, 7)
        fluid = 0.9 if contrast == "T2" else 0.1
        image, reconstruction = head(), head()
        (image if wider else reconstruction)[large] = fluid
        (reconstruction if wider else image)[large & ~small] = 0.5
        map_ = (large & ~small).astype(np.float32)
        evidence = Evidence(image, map_, 0.5, reconstruction, NOTHING, image)
        facts = SliceFacts(False, "normal", contrast=contrast, height_mm=20.0)
        for text in every_wording(facts, evidence, "O4"):
            assert ("wide" if wider else "narrow") in text


class TestReconstruction:
    @pytest.mark.parametrize(("left", "start"), [(0.0, "Yes"), (0.7, "Partially"), (1.0, "No")])
    def test_what_is_left_of_the_lesion(self, left: float, start: str) -> None:
        for twin in (True, False):
            evidence = case(LESION, LESION, left=left)
            if not twin:  # judged against the picture itself: change inside the mask or none
                if left == 0.7:
                    continue
                noise = np.random.default_rng(0).normal(0, 0.03, (SIDE, SIDE)).astype(np.float32)
                evidence = Evidence(
                    evidence.image,
                    evidence.anomaly_map,
                    0.5,
                    evidence.reconstruction + noise,
                    LESION,
                )
            assert answers(MASS, evidence)["O2"].startswith(start)

    def test_blur_is_mentioned(self) -> None:
        assert all(
            "blurred" in t for t in every_wording(MASS, case(LESION, LESION, blur=True), "O2")
        )
        assert "blurred" not in "".join(every_wording(MASS, case(LESION, LESION), "O2"))

    def test_a_healthy_head_that_is_altered(self) -> None:
        evidence = case(NOTHING, NOTHING)
        assert answers(HEALTHY, evidence)["O2"].startswith("Yes")
        evidence.reconstruction[60:110, 40:120] *= np.float32(0.5)
        assert answers(HEALTHY, evidence)["O2"].startswith("No")


class TestSize:
    @pytest.mark.parametrize(
        ("diameter", "word"),
        [
            (5.0, "small"),
            (17.99, "small"),
            (18.0, "medium-sized"),
            (25.99, "medium-sized"),
            (26.0, "large"),
            (39.0, "large"),
        ],
    )
    @pytest.mark.parametrize(
        ("marked", "left", "name", "sentence"),
        [
            (LESION, 0.0, "O3", "Yes, the {} mass lesion in the left frontal region is"),
            (NOTHING, 0.0, "O3", "No, the {} mass lesion in the left frontal region is not"),
            (
                LESION & (LEFT_FRONTAL[0] - 2 > ROWS),
                *(0.0, "O3", "only part of the {} mass lesion in the left frontal region is"),
            ),
            (LESION, 0.7, "O2", "Remains of the {} mass lesion are"),
            (LESION, 1.0, "O2", "No, the {} mass lesion is still"),
        ],
    )
    def test_some_wordings_tell_it(
        self, diameter: float, word: str, marked: np.ndarray, left: float, name: str, sentence: str
    ) -> None:
        facts = replace(MASS, diameter_mm=diameter)
        said = every_wording(facts, case(LESION, marked, left=left), name)
        telling = [text for text in said if any(size in text for size in SIZES)]
        assert len(telling) == 1 < len(said), "part of the wordings, which stay short"
        assert sentence.format(word) in telling[0]

    @pytest.mark.parametrize("kind", sorted({*KINDS, ""} - {"normal"}))
    def test_one_thing_has_one_size_and_closed_answers_stay(self, kind: str) -> None:
        facts = SliceFacts(True, kind, "severe", contrast="T1", height_mm=30.0, diameter_mm=30.0)
        evidence = case(LESION, NOTHING)
        sized = " ".join(every_wording(facts, evidence, "O3"))
        assert ("the large " in sized) is (kind not in PLURAL)
        assert "  " not in sized
        for name, text in answers(facts, evidence).items():
            assert not QUESTIONS[name].closed or classify(name, text) is not None

    def test_the_choice_among_wordings_does_not_hang_on_it(self) -> None:
        evidence = case(LESION, NOTHING)
        for seed in range(6):
            plain = answers(MASS, evidence, seed)
            sized = answers(replace(MASS, diameter_mm=30.0), evidence, seed)
            assert {name: text.replace("large ", "") for name, text in sized.items()} == plain


class TestOtherData:
    def test_unknown_kinds_get_what_the_mask_allows(self) -> None:
        facts = SliceFacts(abnormal=True)
        evidence = case(LESION, LESION | disc(RIGHT_OCCIPITAL, 6))
        said = answers(facts, evidence)
        assert set(said) == {"C1", "O1", "O3"}
        assert said["C1"] == "No."
        assert "lower centre part of the image" in said["O1"] or "left part" in said["O1"]
        assert "mass" not in said["O3"]

    def test_without_a_mask_only_the_normal_question(self) -> None:
        assert answers(SliceFacts(abnormal=True), case(None, LESION)) == {"C1": "No."}

    def test_rows_of_a_manifest(self) -> None:
        cells = {"label": "1", "kind": "edema", "severity": "mild", "diameter_mm": "12.5"}
        facts = SliceFacts.of_row({**cells, "height_mm": "3", "contrast": "T2"})
        assert (facts.kind, facts.diameter_mm, facts.height_mm) == ("edema", 12.5, 3.0)
        assert SliceFacts.of_row({"label": "0", "kind": ""}).kind == "normal"
        assert SliceFacts.of_row({"label": "0"}).kind == ""


class TestForm:
    def test_wordings_depend_on_the_seed_only(self) -> None:
        evidence = case(LESION, LESION | disc(RIGHT_OCCIPITAL, 6))
        assert answers(MASS, evidence, 3) == answers(MASS, evidence, 3)
        assert len(every_wording(MASS, evidence, "O1")) > 1

    def test_sentences_are_clean(self) -> None:
        for situation, sentences in WORDINGS.items():
            assert len(set(sentences)) == len(sentences) >= 2, situation
            for text in sentences:
                assert re.fullmatch(r"[A-Z][^\t\"\n]*\.", text), text

    def test_pictures_of_different_sizes_are_refused(self) -> None:
        square = np.zeros((8, 8), dtype=np.float32)
        with pytest.raises(ValueError, match=r"of one size, got .*\(8, 8\).*\(9, 8\)"):
            Evidence(square, np.zeros((9, 8), dtype=np.float32), 0.5, square)

    def test_an_empty_picture_is_no_error(self) -> None:
        empty = np.zeros((SIDE, SIDE), dtype=np.float32)
        evidence = Evidence(empty, empty, 0.5, empty, NOTHING)
        assert regions(evidence, NOTHING) == []
        assert set(answers(HEALTHY, evidence)) == set(QUESTIONS)

    def test_zones_from_outside_to_inside(self) -> None:
        evidence = case(NOTHING, NOTHING)
        found = [
            zone(regions(evidence, disc((80.0, column), 3))[0], 20.0) for column in (23, 40, 56, 80)
        ]
        assert found == ["skull", "cortex", "tissue", "centre"]
        high = zone(regions(evidence, disc(VENTRICLES, 3))[0], 45.0)
        assert high == "tissue"
