"""Answers of a full-size KQ-Former: batched with a key-value cache, against one by one without.

    python benchmarks/vqa_generation.py [--triples 44] [--slow 14] [--tokens 48] [--busy] [--small]

The model is the preset kqf-concat-vit (ViT-B/16, 6 layers of BERT-base, GPT-2 small) on random
weights; the items are --triples times the seven standard questions, 308 as in the paper's test set.
Ours encodes each triple once and searches with five beams for 32 items at a time. The rival does
what the published code does, one item at a time from images to words and the whole text again for
every token, with the same five beams; it takes long, so it answers --slow items spread over all of
them and its seconds are scaled up. Random weights do not end their answers: question and answer end
at --tokens together (published limit: 100; the more, the slower the rival). Word embeddings are
eight times GPT-2's, so that one word is clearly likelier than the next, as after training. --busy
is for a machine that others use: one thread, and seconds of the processor in place of the clock on
the wall. --small replaces the networks by tiny ones, to try the script itself.
"""

import argparse
import time
from collections.abc import Callable

import torch

from scanomaly.backbones.language import build_tokenizer
from scanomaly.config.vqa import FormerConfig, LanguageConfig, VqaConfig
from scanomaly.presets import vqa_preset
from scanomaly.questions import QUESTIONS
from scanomaly.vqa.decoding import Search, continue_prompts
from scanomaly.vqa.images import Images
from scanomaly.vqa.kq_former import KqFormerVqa
from scanomaly.vqa.packing import Tokenizer

VOCABULARY, SMALL_VOCABULARY = 50257, 500
TARGET = 4.0
SHARPER = 8.0
ASKED = [question.text for question in QUESTIONS.values()]


def configuration(small: bool, tokens: int) -> VqaConfig:
    """kqf-concat-vit on random weights; `small`: the same parts at a fraction of the size."""
    config = vqa_preset("kqf-concat-vit").config
    visual = config.visual.model_copy(update={"weights": "random"})
    former, decoder = FormerConfig(weights="random"), LanguageConfig(weights="random")
    if small:
        visual = visual.model_copy(update={"name": "deit_tiny_patch16_224.fb_in1k"})
        former = FormerConfig(weights="random", layers=1, width=64, heads=2, hidden=64)
        decoder = LanguageConfig(weights="random", layers=2, width=64, heads=2)
    parts = {"visual": visual, "former": former, "decoder": decoder, "max_tokens": tokens}
    return config.model_copy(update=parts)


def tokenizer_of(size: int) -> Tokenizer:
    """The questions' words and numbers, `size` tokens in all."""
    words = LanguageConfig(weights="random", tokenizer="words")
    count = size - len(build_tokenizer(words, [*ASKED, "0"])) + 1
    return build_tokenizer(words, [*ASKED, " ".join(map(str, range(count)))])


def build(small: bool, tokens: int) -> KqFormerVqa:
    torch.manual_seed(0)
    tokenizer = tokenizer_of(SMALL_VOCABULARY if small else VOCABULARY)
    answerer = KqFormerVqa.build(configuration(small, tokens), tokenizer).eval()
    with torch.no_grad():
        answerer.decoder.transformer.wte.weight *= SHARPER
    return answerer


def random_images(count: int) -> Images:
    generator = torch.Generator().manual_seed(1)
    image, anomaly_map, reconstruction = (
        torch.rand(count, 3, 224, 224, generator=generator) * 2 - 1 for _ in range(3)
    )
    return image, anomaly_map, reconstruction


def one_by_one(answerer: KqFormerVqa, images: Images, items: list[tuple[int, str]]) -> list[str]:
    """Each item alone, its images encoded anew, every step over the whole text."""
    packing, config = answerer.packing, answerer.config
    search = Search(packing.end, config.max_tokens, config.beams, cache=False)
    texts = []
    for triple, question in items:
        image, anomaly_map, reconstruction = (each[triple : triple + 1] for each in images)
        with torch.inference_mode():
            memory = answerer.memory((image, anomaly_map, reconstruction))
        prompt = packing.prompt(question)
        ((found,),) = continue_prompts(answerer.decoder, [prompt], memory, search)
        texts.append(packing.text(list(found.tokens)))
    return texts


def main() -> None:
    """Time both, compare their answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--triples", type=int, default=44)
    parser.add_argument("--slow", type=int, default=14, help="items that are answered one by one")
    parser.add_argument("--tokens", type=int, default=48, help="of question and answer together")
    parser.add_argument("--busy", action="store_true", help="one thread, processor time")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the script")
    options = parser.parse_args()
    if options.busy:
        torch.set_num_threads(1)
    clock: Callable[[], float] = time.process_time if options.busy else time.perf_counter
    answerer, images = build(options.small, options.tokens), random_images(options.triples)
    items = [(triple, question) for triple in range(options.triples) for question in ASKED]
    slow = min(options.slow, len(items))
    chosen = [index * len(items) // slow for index in range(slow)]
    answerer.generate(tuple(each[:1] for each in images), ASKED[:1])  # type: ignore[arg-type]
    print(f"{len(items)} items, {torch.get_num_threads()} threads", flush=True)

    start = clock()
    triples, questions = [triple for triple, _ in items], [question for _, question in items]
    ours = [found.text for found in answerer.generate(images, questions, triple=triples)]
    batched = clock() - start
    print(f"batched, with a cache: {batched:.1f} s", flush=True)

    start = clock()
    theirs = one_by_one(answerer, images, [items[index] for index in chosen])
    alone = (clock() - start) * len(items) / slow
    print(f"one by one, without: {alone:.1f} s (from {slow} items)")
    same = sum(ours[index] == text for index, text in zip(chosen, theirs, strict=True))
    print(f"{alone / batched:.1f}x faster (target {TARGET}x); {same} of {slow} answers the same")


if __name__ == "__main__":
    main()
