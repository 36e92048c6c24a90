"""What every answerer is.

B triples, Q questions, S side of an image
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scanomaly.config.vqa import VqaDataConfig
from scanomaly.questions import Answer, best_first, question_of
from scanomaly.records import Triple
from scanomaly.vqa.images import Images, triple_images
from scanomaly.vqa.items import VqaBatch


class Generated(NamedTuple):
    """An answer in words. log_probability: natural, of all its tokens, the end token included.

    others: what else was found, with log-probabilities, best first.
    """

    text: str
    log_probability: float
    others: tuple[tuple[str, float], ...] = ()

    @property
    def candidates(self) -> tuple[tuple[str, float], ...]:
        """All that was found, best first: beams may find likelier words than a greedy answer."""
        return best_first(((self.text, self.log_probability), *self.others))


class Answerer(nn.Module, ABC):
    """Answers questions about triples, each on its own: the batch it comes in changes nothing.

    data: how pictures become the images that it was trained on.
    """

    data: VqaDataConfig

    @abstractmethod
    def loss(self, batch: VqaBatch) -> Tensor:
        """What training minimises: cross-entropy in nats, mean over all target tokens."""

    @abstractmethod
    def generate(
        self,
        images: Images,
        questions: Sequence[str],
        *,
        triple: Sequence[int] | None = None,
        alternatives: int = 1,
    ) -> list[Generated]:
        """An answer to each question.

        images: (B, 3, S, S) each, normalised. triple: which of the B each question is about; None:
        one for each, in order. Raises DataError for an empty question, or one of too many tokens.
        """

    @abstractmethod
    def candidate_scores(self, images: Images, question: str, candidates: Sequence[str]) -> Tensor:
        """Natural log-probabilities (B, candidates) of these answers, each with its end.

        images: (B, 3, S, S) each, normalised. Raises as `generate`.
        """

    def answer(
        self, triple: Triple, questions: Sequence[str], *, alternatives: int = 1
    ) -> list[list[Answer]]:
        """For each triple an answer to each question; the triple may have any size.

        alternatives: how many candidates to look for, the answer among them. Raises DataError as
        `generate`.
        """
        asked = [question_of(text) for text in questions]
        images = triple_images(triple, self.data)
        image, anomaly_map, reconstruction = (image.to(self.device) for image in images)
        found = self.generate(
            (image, anomaly_map, reconstruction),
            [question.text for question in asked] * len(triple),
            triple=[index for index in range(len(triple)) for _ in asked],
            alternatives=alternatives,
        )
        answers = [
            Answer(
                question=question,
                text=one.text,
                log_probability=one.log_probability,
                candidates=one.candidates if one.others else (),
            )
            for question, one in zip(asked * len(triple), found, strict=True)
        ]
        count = len(asked)
        return [answers[count * i : count * (i + 1)] for i in range(len(triple))]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @abstractmethod
    def fitted_state(self) -> dict[str, Tensor]:
        """Every value, each once: what tells this answerer from a new one of the same sizes."""
