"""Questions and answers to tokens (KQ-Former VQA-UAD specification, section 7).

T tokens of a text
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from scanomaly.errors import DataError
from scanomaly.vqa.items import IGNORED, Packed


class Tokenizer(Protocol):
    """What is asked of a tokeniser of transformers."""

    eos_token_id: Any

    def __call__(self, text: str, /) -> Any: ...
    def __len__(self) -> int: ...
    def decode(self, ids: list[int], /, *, skip_special_tokens: bool) -> Any: ...
    def save_pretrained(self, folder: str, /) -> Any: ...


class Packing:
    """Texts of at most `length` tokens: question, one blank, answer, one end token."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self.tokenizer = tokenizer
        self.length = length
        self.end = int(tokenizer.eos_token_id)

    def __call__(self, question: str, answer: str) -> Packed:
        """ids, attention and labels, int64 (T,) each, T = `length`.

        Padding is the end token. Targets are the answer's tokens and the end token behind them,
        where it fits; whether there are any is for the caller to see.
        """
        asked = len(self.tokens(question))
        tokens = self.tokens(f"{question} {answer}")[: self.length]
        ids = torch.full((self.length,), self.end)
        ids[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        attention = (torch.arange(self.length) < len(tokens)).long()
        labels = ids.clone()
        labels[:asked] = IGNORED
        labels[len(tokens) + 1 :] = IGNORED
        return ids, attention, labels

    def prompt(self, question: str) -> list[int]:
        """The tokens of a question. Raises DataError for an empty or too long one."""
        tokens = self.tokens(question) if question.strip() else []
        if not tokens:
            raise DataError("expected a question, got an empty text.")
        if len(tokens) >= self.length:
            raise DataError(
                f"the question {question[:40]!r}... has {len(tokens)} tokens; shorten it to at "
                f"most {self.length - 1}, so that one of {self.length} is left for the answer."
            )
        return tokens

    def continuation(self, question: str, answer: str) -> list[int]:
        """The tokens that `answer` adds to the question's, with the end token if it fits."""
        asked = len(self.tokens(question))
        tokens = [*self.tokens(f"{question} {answer}"), self.end]
        return tokens[asked : self.length]

    def tokens(self, text: str) -> list[int]:
        """Ids without any special token."""
        return list(self.tokenizer(text)["input_ids"])

    def text(self, ids: list[int]) -> str:
        """The words of an answer's tokens, without the end token and blanks around them."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
