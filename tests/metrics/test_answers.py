"""Metrics of answers against plain loops, scikit-learn and the paper's table, with intervals."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from scanomaly.metrics import answers
from scanomaly.metrics.answers import (
    MEAN,
    SIGNATURES,
    class_metrics,
    closed_metrics,
    majority_answers,
    mean_estimates,
    open_differences,
    open_metrics,
)
from scanomaly.metrics.closed_answers import OTHER, confusion
from scanomaly.metrics.intervals import bootstrap_weights
from scanomaly.metrics.text_overlap import bleu
from scanomaly.questions import ANSWERS, classify


def closed_items(seed, count, classes=None):
    """Questions, predictions and truths; `classes` limits those that occur as truths."""
    rng = np.random.default_rng(seed)
    questions = rng.choice(["C1", "C2", "C3"], count).tolist()
    truths = [str(rng.choice(ANSWERS[q][:classes])) for q in questions]
    predictions = [
        truth if rng.random() < 0.5 else str(rng.choice(ANSWERS[question]))
        for question, truth in zip(questions, truths, strict=True)
    ]
    return questions, predictions, truths


def test_closed_metrics_are_those_of_scikit_learn():
    items = closed_items(0, 200, classes=3)
    found = closed_metrics(*items, repeats=0)
    published, macro = [], []
    for name in ("C1", "C2", "C3"):
        pairs = [(p, t) for q, p, t in zip(*items, strict=True) if q == name]
        given, true = ([classify(name, text) for text in side] for side in zip(*pairs, strict=True))
        average = {"average": "binary", "pos_label": 1} if name == "C1" else {"average": "micro"}
        published.append(f1_score(true, given, **average))
        macro.append(f1_score(true, given, average="macro", labels=sorted(set(true))))
    right = np.mean([p == t for _, p, t in zip(*items, strict=True)])
    assert found["accuracy"].value == found["class_accuracy"].value == pytest.approx(right)
    assert found["f1"].value == pytest.approx(np.mean(published))
    assert found["f1_macro"].value == pytest.approx(np.mean(macro))
    assert found.keys() <= SIGNATURES.keys()


def test_one_question_alone_is_its_own_mean():
    questions, predictions, truths = closed_items(1, 60)
    mine = [at for at, name in enumerate(questions) if name == "C2"]
    alone = closed_metrics(
        ["C2"] * len(mine), [predictions[at] for at in mine], [truths[at] for at in mine], repeats=0
    )
    assert alone["f1"].value == alone["class_accuracy"].value  # micro F1 is accuracy
    whole = class_metrics("C2", [predictions[at] for at in mine], [truths[at] for at in mine])
    assert whole[MEAN]["accuracy"].value == pytest.approx(alone["f1"].value)


def test_text_outside_the_vocabulary_is_wrong_and_raises_nothing():
    said = ["Yes.", "Perhaps.", "", "a\tb\"c'"]
    found = closed_metrics(["C1"] * 4, said, ["Yes."] * 4, repeats=0)
    assert found["accuracy"].value == found["class_accuracy"].value == 0.25
    assert found["f1"].value == pytest.approx(2 / 5)  # 2 right / (1 given + 4 true)
    table = confusion("C1", said, ["Yes."] * 4)
    assert table.answers == ("No.", "Yes.", OTHER)
    assert table.counts == ((0, 0, 0), (0, 1, 3), (0, 0, 0))


def test_a_truth_outside_the_vocabulary_is_right_for_the_string_alone():
    found = closed_metrics(["C1", "C1"], ["Yes", "No."], ["Yes", "No."], repeats=0)
    assert found["accuracy"].value == 1
    assert found["class_accuracy"].value == 0.5
    assert confusion("C1", ["Yes"], ["Yes"]).counts[2] == (0, 0, 1)


def test_accuracy_minds_dots_and_classes_mind_what_the_data_set_minds():
    said, true = ["  it's edema.", "It's edema", "It'sedema."], ["It's edema."] * 3
    found = closed_metrics(["C2"] * 3, said, true, repeats=0)
    assert found["accuracy"].value == pytest.approx(1 / 3)
    assert found["class_accuracy"].value == pytest.approx(2 / 3)


def test_no_yes_anywhere_gives_an_f1_of_zero_as_published():
    found = closed_metrics(["C1"] * 2, ["No.", "No."], ["No.", "No."], repeats=0)
    assert found["f1"].value == 0
    assert found["f1_macro"].value == 1


def test_without_items_there_is_no_value():
    found = closed_metrics([], [], [])
    assert {estimate.value for estimate in found.values()} == {None}
    assert all(estimate.why for estimate in found.values())
    assert {estimate.value for estimate in open_metrics([], []).values()} == {None}


def test_an_open_question_or_another_length_is_refused():
    with pytest.raises(ValueError, match="closed question \\(C1, C2, C3\\), got 'O1'"):
        closed_metrics(["O1"], ["Yes."], ["Yes."])
    with pytest.raises(ValueError, match="one length, got \\[1, 2, 1\\]"):
        closed_metrics(["C1"], ["Yes.", "No."], ["Yes."])
    with pytest.raises(ValueError, match="2 groups for 1"):
        open_metrics(["a"], ["a"], ["p", "q"])


def open_set(true_positives, false_positives, false_negatives, true_negatives):
    """Answers to C1 where positive means unhealthy, "No."."""
    said = ["No."] * (true_positives + false_positives)
    said += ["Yes."] * (false_negatives + true_negatives)
    true = ["No."] * true_positives + ["Yes."] * false_positives
    return said, true + ["No."] * false_negatives + ["Yes."] * true_negatives


def test_the_open_set_table_of_the_paper():
    table = class_metrics("C1", *open_set(16, 7, 1, 76), repeats=0)
    percent = {
        row: {name: round(100 * cell.value, 2) for name, cell in cells.items()}
        for row, cells in table.items()
    }
    # printed as ACC / F1: 69.67 (misprint of .57) / 80.00, 98.70 / 95.00, 84.13 / 87.50
    assert (percent["No."]["precision"], percent["No."]["f1"]) == (69.57, 80.0)
    assert (percent["Yes."]["precision"], percent["Yes."]["f1"]) == (98.7, 95.0)
    assert (percent[MEAN]["precision"], percent[MEAN]["f1"]) == (84.13, 87.5)
    assert percent["No."]["recall"] == 94.12
    assert percent["No."]["accuracy"] == percent["Yes."]["accuracy"] == 92.0
    assert percent[MEAN]["accuracy"] == 92.0


def test_class_metrics_are_those_of_scikit_learn():
    _, _, truths = closed_items(2, 120)
    rng = np.random.default_rng(3)
    truths = rng.choice(ANSWERS["C3"], 120).tolist()
    said = rng.choice(ANSWERS["C3"], 120).tolist()
    table = class_metrics("C3", said, truths, repeats=0)
    expected = precision_recall_fscore_support(truths, said, labels=list(ANSWERS["C3"]))
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        found = [table[answer][name].value for answer in ANSWERS["C3"]]
        np.testing.assert_allclose(found, values)
        assert table[MEAN][name].value == pytest.approx(values.mean())


def test_a_class_that_is_absent_has_no_recall_and_takes_no_part():
    table = class_metrics("C3", ["Not applicable."] * 3, ["Not applicable."] * 3, repeats=0)
    assert table["Clinically relevant."]["recall"].value is None
    assert table["Clinically relevant."]["accuracy"].value == 1
    assert table[MEAN]["recall"].value == table[MEAN]["f1"].value == 1


def test_open_metrics_hold_the_published_values(golden):
    published = json.loads(golden("vqa_text_metrics.json").read_text())
    found = open_metrics(published["hypotheses"], published["references"], repeats=0)
    for order, value in enumerate(published["bleu"], start=1):
        assert found[f"bleu_{order}"].value == pytest.approx(value, rel=1e-12)
    assert found["rouge_l"].value == pytest.approx(published["rouge_l"], rel=1e-12)
    assert found["cider"].value == pytest.approx(published["cider"], rel=1e-12)
    assert found.keys() <= SIGNATURES.keys()


def test_the_first_word_tells_yes_from_no():
    said = ["Yes, left.", "no", "", "No."]
    found = open_metrics(said, ["YES (partly).", "Yes.", "", "No."], repeats=0)
    assert found["first_word"].value == 0.75


def test_cider_of_one_answer_is_undefined():
    found = open_metrics(["Yes."], ["Yes."], repeats=0)
    assert found["cider"].value is None
    assert "one answer only" in found["cider"].why
    assert found["bleu_1"].value == pytest.approx(1)


def repeated(columns, ids, repeats, seed):
    """The items of every bootstrap draw, written out."""
    members = [np.flatnonzero(np.array(ids) == name) for name in dict.fromkeys(ids)]
    for weights in bootstrap_weights(len(members), repeats, seed):
        chosen = np.concatenate([np.tile(m, w) for m, w in zip(members, weights, strict=True)])
        yield [[column[at] for at in chosen] for column in columns]


def test_intervals_of_closed_metrics_equal_a_plain_resampling_loop():
    columns = closed_items(4, 60)
    ids = np.random.default_rng(0).integers(0, 12, 60).tolist()
    found = closed_metrics(*columns, ids, repeats=60, seed=7)
    draws = [
        {name: one.value for name, one in closed_metrics(*drawn, repeats=0).items()}
        for drawn in repeated(columns, ids, 60, 7)
    ]
    for name, estimate in found.items():
        low, high = np.quantile([draw[name] for draw in draws], [0.025, 0.975])
        assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high)), name
        assert estimate.low < estimate.value < estimate.high


def test_intervals_of_bleu_equal_a_plain_resampling_loop():
    rng = np.random.default_rng(1)
    words = np.array(["yes", "no", "left", "right", "lobe"])
    columns = [[" ".join(rng.choice(words, 6)) for _ in range(30)] for _ in range(2)]
    ids = rng.integers(0, 8, 30).tolist()
    found = open_metrics(*columns, ids, repeats=50, seed=3)
    draws = [bleu(*drawn) for drawn in repeated(columns, ids, 50, 3)]
    for order in (1, 4):
        low, high = np.quantile([draw[order - 1] for draw in draws], [0.025, 0.975])
        estimate = found[f"bleu_{order}"]
        assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))


def test_paired_differences_equal_a_plain_resampling_loop():
    rng = np.random.default_rng(2)
    words = np.array(["yes", "no", "left", "right", "lobe"])
    columns = [[" ".join(rng.choice(words, 6)) for _ in range(30)] for _ in range(3)]
    ids = rng.integers(0, 8, 30).tolist()
    found = open_differences(*columns, ids, repeats=50, seed=3)
    draws = [
        bleu(first, truth)[3] - bleu(second, truth)[3]
        for first, second, truth in repeated(columns, ids, 50, 3)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (found["bleu_4"].low, found["bleu_4"].high) == (
        pytest.approx(low),
        pytest.approx(high),
    )
    first, second = (open_metrics(said, columns[2]) for said in columns[:2])
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(first[name].value - second[name].value)
    same = open_differences(columns[0], columns[0], columns[2], ids, repeats=20)
    assert {(one.value, one.low, one.high) for one in same.values()} == {(0.0, 0.0, 0.0)}


def test_patients_with_copies_of_an_item_do_not_narrow_the_interval():
    hit = np.random.default_rng(2).random(40) < 0.5
    single = mean_estimates({"hit": hit}, range(40), repeats=200)["hit"]
    tripled = mean_estimates({"hit": np.tile(hit, 3)}, [*range(40)] * 3, repeats=200)["hit"]
    assert (tripled.low, tripled.high) == (pytest.approx(single.low), pytest.approx(single.high))
    naive = mean_estimates({"hit": np.tile(hit, 3)}, repeats=200)["hit"]
    assert naive.high - naive.low < 0.75 * (single.high - single.low)


def test_repeats_in_which_a_class_is_missing_are_dropped_and_counted():
    said = true = ["No."] + ["Yes."] * 9
    recall = class_metrics("C1", said, true, repeats=300)["No."]["recall"]
    expected = sum(row[0] == 0 for row in bootstrap_weights(10, 300, 0))
    assert recall.dropped == expected > 0
    assert recall.value == recall.low == recall.high == 1


def test_one_patient_has_no_interval_and_says_so():
    found = closed_metrics(["C1", "C1"], ["Yes.", "No."], ["Yes.", "Yes."], ["p", "p"])
    assert found["accuracy"].value == 0.5
    assert found["accuracy"].low is None
    assert "one patient" in found["accuracy"].why


def test_the_majority_answer_of_each_question():
    questions, said = ["C1", "C1", "C1", "C2"], ["Yes.", "No.", "No.", "It's edema."]
    assert majority_answers(questions, said) == {"C1": "No.", "C2": "It's edema."}


def test_signatures_tell_metrics_apart():
    assert len(set(SIGNATURES.values())) == len(SIGNATURES)
    assert SIGNATURES["bleu_4"] == "BLEU|n:4|case:mixed|tok:split|nrefs:1|smooth:none|level:corpus"
    assert answers.SIGNATURES["f1"].startswith("F1|C1:binary,yes|")
