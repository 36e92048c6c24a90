"""Answers from a language decoder: beam search through transformers' generate, and probabilities.

Source: KQ-Former VQA-UAD specification, section 9.

B prompts, T tokens of a text, N tokens of the memory, D width, V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Tokens = Sequence[int]
LOGITS_AT_ONCE = 512
"""Positions whose logits are held at once: about 100 MB each for GPT-2's vocabulary."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What follows a prompt.

    tokens: with the end token, unless the limit came first. log_probability: natural, of them all.
    """

    tokens: tuple[int, ...]
    log_probability: float


@dataclass(frozen=True, slots=True)
class Search:
    """How answers are looked for.

    end: the end token, also padding. length: most tokens of prompt and answer together. beams: 1 is
    greedy. cache: keep keys and values of earlier tokens, or compute them anew at each step.
    """

    end: int
    length: int
    beams: int = 5
    cache: bool = True

    def like_reference(self) -> tuple[Search, Callable[[Tokens], list[int]]]:
        """The published search, and what it makes of a prompt.

        Its beams are all the same, which is greedy search; the first token of the prompt is lost to
        the end token; one token more is allowed.
        """
        search = Search(self.end, self.length + 1, beams=1, cache=self.cache)
        return search, lambda prompt: [self.end, *prompt[1:]]


def continue_prompts(
    decoder: Any,
    prompts: Sequence[Tokens],
    memory: Tensor | None,
    search: Search,
    *,
    alternatives: int = 1,
) -> list[list[Continuation]]:
    """For each prompt the best continuations, best first; at most `beams` of them.

    decoder: of transformers, with `generate`. memory: (B, N, D) for its cross-attention, None for a
    decoder without. The sum of log-probabilities decides, whatever the length. Prompts of different
    lengths do not disturb each other. Raises ValueError for more `alternatives` than beams.
    """
    if not 1 <= alternatives <= search.beams:
        raise ValueError(f"expected 1 to {search.beams} alternatives (beams), got {alternatives}.")
    ids, attention = left_padded(prompts, search.end, decoder.device)
    found = _generate(decoder, ids, attention, memory, search, prompts, alternatives)
    rows = [_until_end(row, search.end) for row in found[:, ids.shape[1] :].tolist()]
    limits = [search.length - len(prompt) for prompt in prompts for _ in range(alternatives)]
    rows = [row[:limit] for row, limit in zip(rows, limits, strict=True)]
    asked = [prompt for prompt in prompts for _ in range(alternatives)]
    scores = log_probabilities(
        decoder, asked, rows, _repeated(memory, alternatives), search.end
    ).tolist()
    each = [Continuation(tuple(row), score) for row, score in zip(rows, scores, strict=True)]
    groups = [each[i : i + alternatives] for i in range(0, len(each), alternatives)]
    best_first = (sorted(group, key=lambda found: -found.log_probability) for group in groups)
    return list(map(distinct, best_first))


def distinct(found: Iterable[Continuation]) -> list[Continuation]:
    """The first of those with the same tokens; a beam that never ended may repeat another."""
    kept: dict[tuple[int, ...], Continuation] = {}
    for each in found:
        kept.setdefault(each.tokens, each)
    return list(kept.values())


def _generate(
    decoder: Any,
    ids: Tensor,
    attention: Tensor,
    memory: Tensor | None,
    search: Search,
    prompts: Sequence[Tokens],
    alternatives: int,
) -> Tensor:
    """Prompts with their continuations: (B * alternatives, T), filled up with the end token."""
    import transformers

    library: Any = transformers  # its classes are not annotated throughout
    allowed = torch.tensor([search.length - len(prompt) for prompt in prompts])
    options = library.GenerationConfig(
        max_new_tokens=int(allowed.max()),
        num_beams=search.beams,
        num_return_sequences=alternatives,
        do_sample=False,
        length_penalty=0.0 if search.beams > 1 else None,
        eos_token_id=search.end,
        pad_token_id=search.end,
        use_cache=search.cache,
    )
    reads: dict[str, Any] = {} if memory is None else {"encoder_hidden_states": memory}
    if search.cache and memory is not None:
        reads["past_key_values"] = _cache(decoder)
    with torch.inference_mode():
        found: Tensor = decoder.generate(
            ids,
            attention_mask=attention,
            generation_config=options,
            stopping_criteria=library.StoppingCriteriaList([_limit(allowed, ids.shape[1])]),
            **reads,
        )
    return found


def _cache(decoder: Any) -> Any:
    """Keys and values of earlier tokens. The memory is the same for all beams of a prompt."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    class BeamsOfOneMemory(EncoderDecoderCache):
        def reorder_cache(self, beam_idx: Any) -> None:
            self.self_attention_cache.reorder_cache(beam_idx)

    return BeamsOfOneMemory(
        DynamicCache(config=decoder.config), DynamicCache(config=decoder.config)
    )


def _limit(allowed: Tensor, prompt: int) -> Callable[[Tensor, Any], Tensor]:
    """Stops a row after its own `allowed` (B,) new tokens, so that padding takes none away."""

    def reached(ids: Tensor, scores: Any) -> Tensor:
        rows = allowed.to(ids.device).repeat_interleave(len(ids) // len(allowed))
        return rows <= ids.shape[1] - prompt

    return reached


def _until_end(row: list[int], end: int) -> list[int]:
    return row[: row.index(end) + 1] if end in row else row


def _repeated(memory: Tensor | None, times: int) -> Tensor | None:
    return None if memory is None else memory.repeat_interleave(times, dim=0)


def left_padded(
    prompts: Sequence[Tokens], padding: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Prompts that end in the same column, and where their tokens are: int64 (B, T) each."""
    longest = max(map(len, prompts))
    rows = [[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    masks = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    ids, attention = (
        torch.tensor(part, dtype=torch.int64, device=device) for part in (rows, masks)
    )
    return ids, attention


def log_probabilities(
    decoder: Any,
    prompts: Sequence[Tokens],
    continuations: Sequence[Tokens],
    memory: Tensor | None,
    padding: int,
) -> Tensor:
    """Natural logarithms (B,) of the probabilities of continuations, each after its prompt.

    memory: (B, N, D). An empty continuation has 0.
    """
    found = [torch.zeros(0, device=decoder.device)]
    count = max(1, LOGITS_AT_ONCE // (1 + max(map(len, continuations), default=0)))
    for part in _parts(len(prompts), count):
        read = None if memory is None else memory[part].contiguous()
        found.append(_scores(decoder, prompts[part], continuations[part], read, padding))
    return torch.cat(found)


def _parts(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, start + size)


def _scores(
    decoder: Any,
    prompts: Sequence[Tokens],
    continuations: Sequence[Tokens],
    memory: Tensor | None,
    padding: int,
) -> Tensor:
    ids, attention = left_padded(prompts, padding, decoder.device)
    reversed_rows = [list(reversed(row)) for row in continuations]
    answers, answered = (part.flip(1) for part in left_padded(reversed_rows, padding, ids.device))
    attention = torch.cat([attention, answered], dim=1)
    reads: dict[str, Any] = {} if memory is None else {"encoder_hidden_states": memory}
    with torch.inference_mode():
        logits = decoder(
            input_ids=torch.cat([ids, answers], dim=1),
            attention_mask=attention,
            position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=answers.shape[1] + 1,
            **reads,
        ).logits  # (B, 1 + T, V)
    chosen = logits[:, :-1].float().log_softmax(dim=-1).gather(2, answers[..., None])[..., 0]
    total: Tensor = (chosen * answered).sum(dim=1)
    return total
