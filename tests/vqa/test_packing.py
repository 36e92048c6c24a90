"""Questions and answers to tokens: the published labels, prompts, what does not fit."""

import json
from typing import Any

import pytest
import torch

from scanomaly.backbones.language import build_tokenizer
from scanomaly.config.vqa import LanguageConfig
from scanomaly.errors import DataError
from scanomaly.vqa.packing import Packing

WORDS = LanguageConfig(tokenizer="words", weights="random")


class GoldenTokenizer:
    """The golden file's: words at blanks, 1 + (sum of code points mod 50); 99 is the end."""

    eos_token_id = 99

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [1 + sum(map(ord, word)) % 50 for word in text.split()]}

    def __len__(self) -> int:
        return 100

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> Any:
        raise NotImplementedError

    def save_pretrained(self, folder: str) -> Any:
        raise NotImplementedError


def test_the_published_packing(golden):
    cases = json.loads(golden("vqa_labels.json").read_text())["cases"]
    assert len(cases) == 3
    packing = Packing(GoldenTokenizer(), 12)
    for case in cases:
        ids, attention, labels = packing(case["question"], case["answer"])
        assert ids.tolist() == case["ids"]
        assert attention.tolist() == case["attention"]
        assert labels.tolist() == case["labels"]
        assert ids.dtype == attention.dtype == labels.dtype == torch.int64


def packing(length: int = 14) -> Packing:
    texts = ["Is it normal? It's a normal brain.", 'a\tb "quoted"']
    return Packing(build_tokenizer(WORDS, texts), length)


@pytest.mark.parametrize("question", ["Is it normal?", "Is it normal? "])
def test_the_answer_is_what_is_trained_and_what_is_generated(question):
    """A trailing blank is the question's own, as in the published files."""
    pack = packing()
    ids, attention, labels = pack(question, "It's a normal brain.")
    prompt = pack.prompt(question)
    answer = pack.continuation(question, "It's a normal brain.")
    assert ids[: len(prompt)].tolist() == prompt
    assert labels[labels != -100].tolist() == answer
    assert answer[-1] == pack.end
    assert int(attention.sum()) == len(prompt) + len(answer) - 1
    assert pack.text(answer) == "It's a normal brain."


def test_tabs_and_quotes_come_back():
    pack = packing(20)
    assert pack.text(pack.continuation("Is it normal?", 'a\tb "quoted"')) == 'a\tb "quoted"'


def test_an_answer_that_fills_the_text_has_no_end_token():
    pack = packing(8)
    answer = pack.continuation("Is it normal?", "It's a normal brain.")
    assert len(answer) == 4
    assert pack.end not in answer
    *_, labels = pack("Is it normal?", "It's a normal brain.")
    assert labels.tolist() == [-100] * 4 + answer


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(question):
    with pytest.raises(DataError, match="expected a question, got an empty text"):
        packing().prompt(question)


def test_a_question_that_leaves_no_token_for_its_answer_is_refused():
    assert len(packing(5).prompt("Is it normal?")) == 4
    with pytest.raises(DataError, match="has 4 tokens; shorten it to at most 3"):
        packing(4).prompt("Is it normal?")
    *_, labels = packing(4)("Is it normal?", "It's")
    assert labels.tolist() == [-100] * 4, "VqaItems refuses such an item"
