"""Decoding: the published search, real beams against a plain loop, batches, probabilities."""

import itertools
import json
import math
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationMixin, GPT2Config, GPT2LMHeadModel, PretrainedConfig
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_utils import PreTrainedModel

from scanomaly.vqa.decoding import Search, continue_prompts, log_probabilities

END = 9


class TableLanguageModel(PreTrainedModel, GenerationMixin):
    """The golden files' language model: a table, a glance at the token before, the length."""

    config_class = PretrainedConfig

    def __init__(self, table: Tensor) -> None:
        super().__init__(PretrainedConfig(is_encoder_decoder=False, vocab_size=len(table)))
        self.table = torch.nn.Parameter(table)
        self.seen: list[list[int]] = []

    def forward(
        self, input_ids: Tensor, logits_to_keep: int = 0, use_cache: bool = False, **_: Any
    ) -> Any:
        self.seen.append(input_ids[0].tolist())
        length = input_ids.shape[1]
        logits = self.table[input_ids] + 0.3 * self.table[input_ids.roll(1, dims=1)]
        logits = logits - 0.05 * torch.arange(length)[:, None]
        logits[..., END] += 0.2 * length - 1.5
        return CausalLMOutput(logits=logits[:, -logits_to_keep:])


def test_the_published_search(golden):
    table = load_file(golden("vqa_beam_table.safetensors"))["table"]
    cases = json.loads(golden("vqa_beam.json").read_text())["cases"]
    assert {case["width"] for case in cases} == {1, 3, 5}
    for case in cases:
        model = TableLanguageModel(table).eval()
        published = Search(END, length=19, beams=case["width"], cache=False)
        search, changed = published.like_reference()
        prompt = changed(case["prompt"])
        assert prompt == case["first_decoder_input"]
        ((found,),) = continue_prompts(model, [prompt], None, search)
        assert model.seen[0] == prompt
        assert list(found.tokens) == case["answer"]
        assert score_step_by_step(model, prompt, found.tokens) == pytest.approx(
            case["score"], abs=1e-4
        )


def score_step_by_step(model: Any, prompt: list[int], tokens: tuple[int, ...]) -> float:
    """The table's logits depend on the length so far, so no single pass gives them all."""
    total = 0.0
    for step, token in enumerate(tokens):
        logits = model(torch.tensor([[*prompt, *tokens[:step]]])).logits[0, -1]
        total += logits.detach().log_softmax(dim=-1)[token].item()
    return total


@pytest.fixture(scope="module")
def decoder() -> GPT2LMHeadModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        sizes = {"vocab_size": 10, "n_positions": 30, "n_embd": 16, "n_layer": 2, "n_head": 2}
        config = GPT2Config(**sizes, add_cross_attention=True, eos_token_id=END, bos_token_id=END)
        model = GPT2LMHeadModel(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    return model


PROMPTS = ([1, 2, 3], [4], [5, 6, 7, 8, 1, 2], [3, 3], [1, 2, 3])
"""The first and the last read different memories."""


@pytest.fixture(scope="module")
def memory() -> Tensor:
    return torch.randn(len(PROMPTS), 4, 16, generator=torch.Generator().manual_seed(0))


def slow_beam_search(decoder: Any, prompt: list[int], memory: Tensor, search: Search) -> Any:
    """Beams without a cache or batch; those that end leave, until none can get better."""
    running, finished = [((), 0.0)], []
    while running:
        grown = []
        for tokens, score in running:
            ids = torch.tensor([[*prompt, *tokens]])
            with torch.no_grad():
                logits = decoder(ids, encoder_hidden_states=memory[None]).logits[0, -1]
            scores = (score + logits.log_softmax(dim=-1)).tolist()
            grown += [((*tokens, token), total) for token, total in enumerate(scores)]
        grown.sort(key=lambda pair: -pair[1])
        full = len(grown[0][0]) + len(prompt) == search.length
        best = grown[: search.beams]
        finished += [pair for pair in best if full or pair[0][-1] == END]
        running = [] if full else [p for p in grown if p[0][-1] != END][: search.beams]
    return max(finished, key=lambda pair: pair[1])


@pytest.mark.parametrize("beams", [1, 3, 5])
def test_beam_search_against_a_plain_loop(decoder, memory, beams):
    search = Search(END, length=9, beams=beams)
    found = continue_prompts(decoder, PROMPTS, memory, search)
    for prompt, read, (best,) in zip(PROMPTS, memory, found, strict=True):
        tokens, score = slow_beam_search(decoder, prompt, read, search)
        assert best.tokens == tokens
        assert best.log_probability == pytest.approx(score, abs=1e-4)
    assert len({len(each[0].tokens) for each in found}) > 1, "answers of different lengths"
    assert found[0][0] != found[-1][0], "the memory matters"


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("cache", [True, False])
def test_the_same_answers_alone_and_in_a_batch(decoder, memory, beams, cache):
    search = Search(END, length=12, beams=beams)
    together = continue_prompts(decoder, PROMPTS, memory, search, alternatives=beams)
    other = Search(END, length=12, beams=beams, cache=cache)
    for index, prompt in enumerate(PROMPTS):
        (alone,) = continue_prompts(
            decoder, [prompt], memory[index : index + 1], other, alternatives=beams
        )
        assert [each.tokens for each in alone] == [each.tokens for each in together[index]]
        for a, b in zip(alone, together[index], strict=True):
            assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)


def test_no_answer_is_longer_than_its_prompt_allows(decoder, memory):
    search = Search(END, length=8)
    for prompt, (best,) in zip(
        PROMPTS, continue_prompts(decoder, PROMPTS, memory, search), strict=True
    ):
        assert 1 <= len(best.tokens) <= 8 - len(prompt)


def test_more_beams_find_what_is_at_least_as_likely(decoder, memory):
    greedy, wide = (
        continue_prompts(decoder, PROMPTS, memory, Search(END, length=12, beams=beams))
        for beams in (1, 5)
    )
    gains = [b[0].log_probability - a[0].log_probability for a, b in zip(greedy, wide, strict=True)]
    assert max(gains) > 0.01, "not greedy search"
    assert min(gains) > -1e-4


def test_alternatives_are_different_and_the_best_comes_first(decoder, memory):
    found = continue_prompts(decoder, PROMPTS, memory, Search(END, length=12), alternatives=5)
    for group in found:
        assert len({each.tokens for each in group}) == len(group) > 1
        scores = [each.log_probability for each in group]
        assert scores == sorted(scores, reverse=True)
        assert all(END not in each.tokens[:-1] for each in group)


def test_more_alternatives_than_beams_are_refused(decoder, memory):
    with pytest.raises(ValueError, match=r"expected 1 to 3 alternatives \(beams\), got 4"):
        continue_prompts(decoder, PROMPTS, memory, Search(END, 12, beams=3), alternatives=4)


def test_probabilities_of_everything_that_may_follow_sum_to_one(decoder, memory):
    every = [list(pair) for pair in itertools.product(range(10), repeat=2)]
    scores = log_probabilities(
        decoder, [PROMPTS[0]] * 100, every, memory[:1].expand(100, -1, -1), END
    )
    assert float(scores.exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_probabilities_do_not_depend_on_the_batch(decoder, memory):
    answers = [[1], [2, 3, END], [], [4, 4, 4, 4], [END]]
    together = log_probabilities(decoder, PROMPTS, answers, memory, END).tolist()
    assert together[2] == 0.0
    for index, answer in enumerate(answers):
        read = memory[index : index + 1]
        alone = log_probabilities(decoder, [PROMPTS[index]], [answer], read, END).item()
        assert together[index] == pytest.approx(alone, abs=1e-5)
        assert math.isfinite(alone)
