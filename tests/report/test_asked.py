"""answers.json and answers.html about one scan."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scanomaly.asking import Asked
from scanomaly.inference import Finding
from scanomaly.presets import preset, vqa_preset
from scanomaly.questions import QUESTIONS, Answer, Question
from scanomaly.report import page
from scanomaly.report.asked import answer_lines, answers_html, verdict, write_answers
from scanomaly.report.page import MissingExtraError

LOG = math.log


@pytest.fixture
def asked() -> Asked:
    """A sure answer, an uncertain one with candidates, and a free one that is empty."""
    plane = np.zeros((10, 12), np.float32)
    picture = np.zeros((10, 12, 3), np.uint8)
    return Asked(
        name="scans/<b>.png",
        detector=preset("qfae-offline"),
        answerer=vqa_preset("kqf-offline"),
        finding=Finding("b", 0.81234, 0.05, True, plane, picture),
        threshold=0.5,
        pictures=(picture, picture + np.uint8(100), picture + np.uint8(200)),
        answers=(
            Answer(QUESTIONS["C1"], "Yes.", LOG(0.93), contradiction='"Yes." is <not> so.'),
            Answer(
                *(QUESTIONS["C2"], "It's edema.", LOG(0.4)),
                candidates=(("It's edema.", LOG(0.4)), ("It's lesions.", LOG(0.39))),
                uncertain=True,
            ),
            Answer(Question("free", 'Why\t"so"?', closed=False), "", LOG(0.64)),
        ),
        uncertain_below=0.5,
        splits={"detector, trained": "train: 9 of Brain"},
        weights=("net: Apache-2.0",),
    )


def test_the_json_holds_all_but_the_pictures(asked, tmp_path):
    write_answers(asked, tmp_path)
    content = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
    assert content["format"] == 1
    assert content["disclaimer"] == "Research software, not a medical device."
    assert content["detector"] == {
        **{"score": 0.81234, "threshold": 0.5, "p_value": 0.05, "flagged": True},
    }
    assert content["presets"] == {"detector": "qfae-offline", "answerer": "kqf-offline"}
    first, second, third = content["answers"]
    assert (first["name"], first["answer"], first["uncertain"]) == ("C1", "Yes.", False)
    assert first["log_probability"] == pytest.approx(LOG(0.93))
    assert first["contradiction"] == content["contradictions"][0] == '"Yes." is <not> so.'
    assert [candidate["answer"] for candidate in second["candidates"]] == [
        *("It's edema.", "It's lesions."),
    ]
    assert (third["name"], third["question"]) == ("free", 'Why\t"so"?')
    assert third["certainty"] == pytest.approx(0.64), "of the end alone"


def test_the_page_stands_alone_and_says_what_it_is(asked):
    html = answers_html(asked)
    assert html.count("Research software, not a medical device.") >= 2
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == [
        *("Image", "Anomaly map", "Reconstruction"),
    ]
    assert "<h1>&lt;b&gt;.png: kqf-offline</h1>" in html, "escaped; without its folder"
    assert "scans/" not in html
    assert "&#34;Yes.&#34; is &lt;not&gt; so." in html
    assert "score 0.8123, threshold 0.5, p = 0.05, flagged as abnormal" in html
    assert "(free: not one of the seven" in html
    listed = r"uncertain</span>\s*<ul>\s*<li><b>It&#39;s edema.</b> .*40 %.*\s*<li>It.*39 %"
    assert re.search(listed, html)
    assert "metrics.json" not in html, "there is none here"


def test_without_contradictions_there_is_no_warning(asked):
    calm = replace(asked, answers=asked.answers[1:])
    assert "<aside" in answers_html(asked)
    assert "<aside" not in answers_html(calm)


def test_lines_for_people(asked):
    sure, unsure, free = answer_lines(asked)
    assert (sure.probability, sure.certainty, sure.free) == ("93 %", "93 %", False)
    assert unsure.candidates == [("It's edema.", "40 %"), ("It's lesions.", "39 %")]
    assert free.free


@pytest.mark.parametrize(
    ("candidates", "listed"),
    [
        ((), [("Perhaps <so>.", "40 %")]),
        ((("Yes.", LOG(0.5)), ("No.", LOG(0.1))), ["Yes.", "Perhaps <so>.", "No."]),
    ],
)
def test_an_uncertain_answer_is_shown_whatever_the_candidates(asked, candidates, listed):
    answer = Answer(QUESTIONS["C1"], "Perhaps <so>.", LOG(0.4), candidates, uncertain=True)
    unsure = replace(asked, answers=(answer,))
    (line,) = answer_lines(unsure)
    shown = line.candidates if len(listed) == 1 else [text for text, _ in line.candidates]
    assert shown == listed
    assert "<li><b>Perhaps &lt;so&gt;.</b>" in answers_html(unsure)


def test_an_empty_candidate_is_told(asked):
    candidates = ("Yes.", LOG(0.4)), ("", LOG(0.3))
    answer = Answer(QUESTIONS["C1"], "Yes.", LOG(0.4), candidates, uncertain=True)
    unsure = replace(asked, answers=(answer,))
    assert answer_lines(unsure)[0].candidates[1] == ("(empty)", "30 %")
    html = answers_html(unsure)
    assert "<li><b>Yes.</b>" in html
    assert "<li>(empty) " in html


def test_a_verdict_with_little_calibration_or_none(asked):
    few = replace(asked, finding=replace(asked.finding, flagged=False), threshold=None)
    assert verdict(few).endswith("p = 0.05, calibrated on too few healthy images to flag any score")
    finding = replace(asked.finding, p_value=None, flagged=None)
    assert verdict(replace(asked, finding=finding, threshold=None)) == "score 0.8123"


def test_without_the_extra_the_json_is_safe(asked, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"answers\.html needs .* answers\.json are writ"):
        write_answers(asked, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["answers.json"]
