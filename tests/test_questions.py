import math

import pytest

from scanomaly.errors import DataError
from scanomaly.questions import (
    ANSWERS,
    FREE,
    NORMAL,
    QUESTIONS,
    UNSEEN_TYPES,
    Answer,
    certainty,
    classify,
    is_unseen,
    question_of,
)


def test_seven_questions_three_of_them_closed():
    assert list(QUESTIONS) == ["C1", "C2", "C3", "O1", "O2", "O3", "O4"]
    assert {name for name, question in QUESTIONS.items() if question.closed} == ANSWERS.keys()
    assert [len(answers) for answers in ANSWERS.values()] == [2, 9, 4]


def test_every_answer_is_of_its_own_class():
    for name, answers in ANSWERS.items():
        assert [classify(name, answer) for answer in answers] == list(range(len(answers)))


# the published evaluator's table
PUBLISHED = {
    "C1": {"yes.": 1, "no.": 0},
    "C2": {
        "it'sposttreatmentchange.": 0,
        "it'sanormalbrain": 1,
        "it'smasslesion.": 2,
        "it'slesions.": 3,
        "it'senlargedventricles.": 4,
        "it'sedema.": 5,
        "it'sartefacts.": 6,
        "it'scraniotomy.": 7,
        "it'sresection.": 8,
    },
    "C3": {
        "clinicallyrelevant.": 0,
        "potentiallyclinicallyrelevant.": 1,
        "potentiallyclinicallyrelevant": 1,
        "notapplicable.": 2,
        "clinicallyirrelevant.": 3,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_exactly_the_published_forms_are_known(name):
    forms = PUBLISHED[name]
    assert {form: classify(name, form) for form in forms} == forms
    for form in forms:
        other = form.removesuffix(".") if form.endswith(".") else f"{form}."
        assert classify(name, other) == forms.get(other)


@pytest.mark.parametrize("text", [" YES. ", "y e s.", "Yes.\n", "\tyes."])
def test_blanks_and_case_do_not_count(text):
    assert classify("C1", text) == 1


@pytest.mark.parametrize("text", ["", "Yes", "Yes. No.", '"Yes."', "It's edema.", "Ja." * 1000])
def test_everything_else_is_of_no_class(text):
    assert classify("C1", text) is None


def test_the_normal_class_says_that_nothing_is_wrong():
    said = [ANSWERS[name][index] for name, index in NORMAL.items()]
    assert said == ["Yes.", "It's a normal brain", "Not applicable."]


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=list(QUESTIONS))
def test_a_standard_question_is_found_with_blanks_around_it(question):
    assert question_of(f" {question.text}  \n") == question


def test_another_question_is_free():
    found = question_of("  Is there a tumour? ")
    assert (found.name, found.text, found.closed) == (FREE, "Is there a tumour?", False)
    assert question_of("why " * 10_000).name == FREE


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_empty_question_is_refused(text):
    with pytest.raises(DataError, match='ask for example "Is the case normal\\?"'):
        question_of(text)


def test_unseen_types_are_known_in_the_spelling_of_file_names():
    assert all(is_unseen(kind) and is_unseen(kind.replace(" ", "_")) for kind in UNSEEN_TYPES)
    assert is_unseen("White_Matter_Lesion")
    assert not any(map(is_unseen, ["lesions", "mass_lesion", "normal", ""]))


def test_certainty_is_that_of_a_class_or_of_a_word():
    c1, c2, o1 = (QUESTIONS[name] for name in ("C1", "C2", "O1"))
    half = math.log(0.5)
    assert certainty(Answer(c1, "No.", half)) == pytest.approx(0.5)
    assert certainty(Answer(c2, "It's mass lesion.", half)) == pytest.approx(0.5), "not by words"
    assert certainty(Answer(o1, "No, not there.", 4 * half)) == pytest.approx(0.5)
    assert certainty(Answer(o1, "", half)) == pytest.approx(0.5), "the end alone"
    assert certainty(Answer(o1, "No.", 1e-7)) == 1.0, "rounding may pass 0"
