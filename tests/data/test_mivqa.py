"""Corpora in the published layout and in ours, written and read; every mistake names its place."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import pixels
from scanomaly.data.mivqa import (
    PICTURES,
    TRIPLES,
    Corpus,
    VqaItem,
    read_corpus,
    write_corpus,
    write_pictures,
)
from scanomaly.errors import DataError
from scanomaly.questions import QUESTIONS, question_of

NASTY = 'a\t"quoted", it\'s; caf\u00e9 \\ back\u2028slash\n{} line'


@pytest.fixture
def published(tmp_path):
    """Write annotations (split -> entries) and the pictures of some cases; returns the folder."""

    def write(annotations, cases=("edema_3", "craniotomy_12"), root="mivqa", leave_out=()):
        folder = tmp_path / root
        (folder / "annotations").mkdir(parents=True)
        (folder / "image").mkdir()
        for case in cases:
            for ending in PICTURES.values():
                path = folder / "image" / f"{case}_{ending}.png"
                if path.name not in leave_out:
                    Image.fromarray(pixels()).save(path)
        for split, entries in annotations.items():
            text = entries if isinstance(entries, str) else json.dumps(entries)
            (folder / "annotations" / f"new_{split}.json").write_text(text)
        return folder

    return write


def entry(case="edema_3", question=" Is the case normal? ", answer="No."):
    return [f"/home/someone/data/image/{case}_{{}}.png", question, answer]


def test_the_published_layout(published):
    folder = published(
        {
            "train": [entry(), entry("craniotomy_12", "Odd {}?", NASTY)],
            "valid": [],
            "test": [["C:\\data\\image\\edema_3_{}.png", QUESTIONS["O1"].text + "  ", ""]],
        }
    )
    corpus = read_corpus(folder)
    assert (corpus.name, corpus.root) == ("mivqa", folder)
    assert [len(corpus.split(name)) for name in ("train", "valid", "test")] == [2, 0, 1]
    first, second = corpus.train
    assert first.pictures == tuple(
        folder / "image" / f"edema_3_{ending}.png" for ending in ("orig", "anomaly", "rec")
    )
    assert (first.question, first.answer) == (" Is the case normal? ", "No.")  # as written
    assert (first.category, second.category) == ("edema", "craniotomy")
    assert (second.question, second.answer) == ("Odd {}?", NASTY)
    assert (corpus.test[0].question, corpus.test[0].answer) == (QUESTIONS["O1"].text + "  ", "")
    assert len({item.id for item in corpus.items}) == 3
    assert not corpus.patients_known
    assert first.group == corpus.test[0].group != second.group  # the triple stands for the patient


@pytest.mark.parametrize("below", ["dataset", "data/dataset"])
def test_the_folder_of_the_released_code_is_found_too(published, tmp_path, below):
    published({"test": [entry()]}, root=f"clone/{below}")
    corpus = read_corpus(tmp_path / "clone")
    assert corpus.root == tmp_path / "clone" / below
    assert corpus.name == "clone"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"a": 1}, "line 1, entry 2: expected [template, question, answer], got an object."),
        (
            ["x_{}.png", "y"],
            "line 1, entry 2: expected [template, question, answer], got a list of 2.",
        ),
        (["edema_3_{}.png", "What?", None], "line 1, entry 2: answer: expected a text, got null."),
        (
            ["edema_3_{}.png", 5, "No."],
            "line 1, entry 2: question: expected a text, got the int 5.",
        ),
        (
            ["edema_3_{}.png", " ", "No."],
            "line 1, entry 2: question: expected a question, got an empty",
        ),
        (
            ["edema_3_orig.png", "What?", ""],
            "line 1, entry 2: template: expected a file name with one {}",
        ),
        (
            ["/{}/edema_3.png", "What?", ""],
            "line 1, entry 2: template: expected a file name with one {}",
        ),
        (["{}_{}.png", "What?", ""], "line 1, entry 2: template: expected a file name with one {}"),
        (["edema_4_{}.png", "What?", ""], "line 1, entry 2: image: no file "),
    ],
)
def test_a_wrong_entry_is_named_with_its_field(published, wrong, message):
    folder = published({"train": [entry(), wrong]})
    with pytest.raises(DataError) as failed:
        read_corpus(folder)
    file = folder / "annotations" / "new_train.json"
    assert str(failed.value).startswith(f"{file}, {message}")


@pytest.mark.parametrize(
    ("before", "between", "line"),
    [("[", ", ", 1), ("[\n", ",\n", 3), ("\n [\n\n", " ,\r\n\n\t", 6), ("[", "\n,\n\n", 4)],
)
def test_a_wrong_entry_is_named_with_its_line(published, before, between, line):
    right, wrong = entry(answer="a, [b]\\ {} ]"), ["edema_3_{}.png", 5, "No."]
    text = f"{before}{json.dumps(right)}{between}{json.dumps(wrong)}\n]\n"
    with pytest.raises(DataError, match=rf"json, line {line}, entry 2: question: expected a text"):
        read_corpus(published({"train": text}))


def test_an_entry_over_several_lines_begins_in_its_first(published):
    text = json.dumps([entry(), ["edema_3_{}.png", "What?", None]], indent=1)
    with pytest.raises(DataError, match=r"line 7, entry 2: answer: expected a text, got null"):
        read_corpus(published({"train": text}))


@pytest.mark.parametrize("file", ["annotations/new_train.json", TRIPLES])
def test_json_nested_without_end(published, file):
    folder = published({"train": [entry()]})
    (folder / file).write_text("[" * 200_000)
    with pytest.raises(DataError, match=rf"{file}.*: expected JSON of a few levels, got it nested"):
        read_corpus(folder)


@pytest.mark.parametrize(
    ("ending", "field"), [("orig", "image"), ("anomaly", "anomaly_map"), ("rec", "reconstruction")]
)
def test_a_triple_with_a_missing_picture(published, ending, field):
    folder = published({"valid": [entry()]}, leave_out=[f"edema_3_{ending}.png"])
    with pytest.raises(DataError) as failed:
        read_corpus(folder)
    where = f"{folder / 'annotations' / 'new_valid.json'}, line 1, entry 1: {field}: no file "
    assert str(failed.value).startswith(f"{where}{folder / 'image'}")
    assert "complete the folder, or remove the entry" in str(failed.value)


def test_json_that_is_none_names_its_line(published):
    folder = published({"train": '[\n["a", "b", "c"],\n["a" "b"]\n]'})
    with pytest.raises(DataError, match=r"new_train.json: expected JSON: .* at line 3, column 6"):
        read_corpus(folder)


@pytest.mark.parametrize(("text", "kind"), [('{"a": 1}', "an object"), ("[]", "found none")])
def test_annotations_that_are_no_list_or_empty(published, text, kind):
    with pytest.raises(DataError, match=kind):
        read_corpus(published({"train": text}))


def test_neither_layout(tmp_path):
    with pytest.raises(DataError, match=r"expected triples\.jsonl, or annotations/new_train\.json"):
        read_corpus(tmp_path)


def test_closed_answers_outside_the_vocabulary_are_reported(published, caplog):
    folder = published({"train": [entry(answer="Nope"), entry(answer="No.")]})
    with caplog.at_level(logging.WARNING):
        read_corpus(folder)
    assert "1 closed answers are outside the vocabulary" in caplog.text
    assert "'Nope' to C1" in caplog.text


@pytest.fixture
def items(tmp_path):
    """Two questions about one triple and one about another, in two folders of one name."""
    made = []
    for place in ("first", "second"):
        files = write_pictures(tmp_path / place, "case", (pixels(1), pixels(2), pixels(3)))
        made.append(files)
    (a, b, c), (d, e, f) = made
    return (
        VqaItem("1", a, b, c, " What? ", NASTY, "anna", "edema", "train", {"sizes": [1, 2.5]}),
        VqaItem("2", a, b, c, "Is the case normal?", "", "anna", "edema", "train"),
        VqaItem(
            *("3", d, e, f, "Is the case normal?", "Yes."),
            **{"split": "test", "score": 0.0, "p_value": 0.5, "flagged": False},
        ),
    )


def test_what_is_written_is_read_again(items, tmp_path):
    corpus = tmp_path / "corpus"
    file = write_corpus(corpus, items)
    assert file == corpus / TRIPLES
    read = read_corpus(corpus)
    assert [len(read.split(name)) for name in ("train", "valid", "test")] == [2, 0, 1]
    for before, after in zip(items, read.items, strict=True):
        assert after.pictures[0].is_relative_to(corpus / "image")
        for old, new in zip(before.pictures, after.pictures, strict=True):
            assert old.read_bytes() == new.read_bytes()
        names = ("id", "question", "answer", "patient", "category", "split", "facts")
        names += ("score", "p_value", "flagged")
        assert [getattr(after, name) for name in names] == [getattr(before, name) for name in names]
    assert len(list((corpus / "image").iterdir())) == 6  # each triple once
    assert read.items[0].group == "anna"
    assert read.items[2].group == str(read.items[2].image)


def test_pictures_that_lie_inside_are_not_copied(items, tmp_path):
    folder = tmp_path / "first"
    write_corpus(folder, items[:2])
    assert len(list((folder / "image").iterdir())) == 3
    assert read_corpus(folder).train[0].image == folder / "image" / "case_orig.png"


def test_pictures_are_written_as_they_are(tmp_path):
    grey, colour = pixels(1), pixels(2, (16, 16, 3))
    files = write_pictures(tmp_path, "patient 1/slice 2", (grey, colour, grey))
    assert [file.name for file in files] == [f"slice 2_{e}.png" for e in PICTURES.values()]
    np.testing.assert_array_equal(np.asarray(Image.open(files[0])), grey)
    np.testing.assert_array_equal(np.asarray(Image.open(files[1])), colour)


def test_writing_an_id_twice_is_refused_and_leaves_what_was_there(items, tmp_path):
    file = write_corpus(tmp_path / "corpus", items)
    before = file.read_text()
    with pytest.raises(DataError, match="1: expected each id once"):
        write_corpus(tmp_path / "corpus", [items[0], items[0]])
    assert file.read_text() == before


def record(**changes):
    made = {
        "id": "1",
        "image": "image/case_orig.png",
        "anomaly_map": "image/case_anomaly.png",
        "reconstruction": "image/case_rec.png",
        "question": "What?",
        "answer": "That.",
        "split": "train",
    }
    return {name: value for name, value in (made | changes).items() if value != "LEAVE OUT"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anser": "x"}, "unknown field 'anser'; expected id, image, anomaly_map, "),
        ({"answer": "LEAVE OUT"}, "field 'answer' is missing."),
        ({"question": None}, "field 'question' is missing."),
        ({"answer": ["Yes."]}, "answer: expected a text, got a list."),
        ({"patient": 7}, "patient: expected a text, got the int 7."),
        ({"split": "training"}, "split: expected one of train, valid, test, got 'training'."),
        ({"facts": []}, "facts: expected an object, got a list."),
        ({"score": "high"}, "score: expected a number, got a text."),
        ({"p_value": True}, "p_value: expected a number, got the bool True."),
        ({"flagged": 1}, "flagged: expected true or false, got the int 1."),
        ({"question": "\t"}, "question: expected a question, got an empty text"),
        ({"reconstruction": "image/none.png"}, "reconstruction: no file "),
        ({"id": "0"}, "id: '0' stands in line 1 too"),
    ],
)
def test_a_wrong_line_is_named_with_its_field(tmp_path, changes, message):
    write_pictures(tmp_path, "case", (pixels(1), pixels(2), pixels(3)))
    lines = [json.dumps(record(id="0")), "", json.dumps(record(**changes))]
    (tmp_path / TRIPLES).write_text("\n".join(lines))
    with pytest.raises(DataError) as failed:
        read_corpus(tmp_path)
    assert str(failed.value).startswith(f"{tmp_path / TRIPLES}, line 3: {message}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "1"', "line 1: expected JSON: Expecting ',' delimiter at column 11."),
        ("[1]", "line 1: expected an object, got a list."),
        ("  ", ": expected at least one line, found none."),
    ],
)
def test_a_line_that_is_no_record(tmp_path, line, message):
    (tmp_path / TRIPLES).write_text(line)
    with pytest.raises(DataError) as failed:
        read_corpus(tmp_path)
    assert message in str(failed.value)


def test_text_in_another_encoding(tmp_path):
    (tmp_path / TRIPLES).write_bytes('{"id": "caf\u00e9"}'.encode("latin-1"))
    with pytest.raises(DataError, match="expected JSON in UTF-8"):
        read_corpus(tmp_path)


def test_unknown_patients_and_byte_order_marks_are_fine(tmp_path):
    write_pictures(tmp_path, "case", (pixels(1), pixels(2), pixels(3)))
    text = json.dumps(record(patient=None, category=None))
    (tmp_path / TRIPLES).write_text(f"\ufeff{text}\r\n", encoding="utf-8")
    (item,) = read_corpus(tmp_path).items
    assert (item.patient, item.category) == (None, "")


def test_a_patient_in_two_splits_is_reported(items, tmp_path, caplog):
    first, second, _ = items
    moved = VqaItem("9", *second.pictures, "What?", "That.", "anna", split="test")
    write_corpus(tmp_path / "corpus", [first, moved])
    with caplog.at_level(logging.WARNING):
        read_corpus(tmp_path / "corpus")
    assert "1 patients occur in both train and test (for example anna)" in caplog.text


def test_some_items_of_a_corpus(items):
    corpus = Corpus(Path(), "x", "made here", train=items[:2], test=items[2:])
    assert corpus.items == items
    closed = corpus.only(lambda item: question_of(item.question).closed)
    assert [item.id for item in closed.items] == ["2", "3"]
    assert closed.split("valid") == ()
