"""Does an answer entail the reference, or contradict it? Natural language inference.

KQ-Former's paper reports these shares without naming checkpoints, order or code (spec section 10).
Here any sequence-pair model of transformers judges, in both orders.

n pairs of texts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from scanomaly.backbones.weights import (
    ENVIRONMENT_VARIABLE,
    directories,
    find_repository,
    is_language,
    missing_message,
    weight_file,
)
from scanomaly.errors import WeightsError

MODELS: Mapping[str, str] = {
    "bart": "facebook/bart-large-mnli",
    "deberta": "MoritzLaurer/DeBERTa-v3-base-mnli-fever-anli",
    "mdeberta": "MoritzLaurer/mDeBERTa-v3-base-mnli-xnli",
    "roberta": "FacebookAI/roberta-large-mnli",
}
"""Short name -> public candidate for the paper's model of that family."""

RELATIONS = ("entailment", "neutral", "contradiction")
TIE = "tie"
"""The relation of a pair whose two likeliest ones are equally likely."""
TIE_WITHIN = 1e-6
REVERSED = "_reversed"
"""Behind a relation: premise and hypothesis swapped."""

_PAIRS_AT_ONCE = 32
_MOST_TOKENS = 512


class PairTokenizer(Protocol):
    """What is asked of a tokeniser of transformers."""

    model_max_length: int

    def __call__(
        self,
        text: list[str],
        text_pair: list[str],
        /,
        *,
        padding: bool,
        truncation: bool,
        max_length: int,
        return_tensors: str,
    ) -> Any: ...


class Judge:
    """A sequence-pair classifier that knows entailment, neutral and contradiction.

    network: its config tells which output is which. Raises WeightsError if it does not.
    """

    def __init__(self, name: str, tokenizer: PairTokenizer, network: Any) -> None:
        self.name = name
        self._tokenizer = tokenizer
        self._network = network.eval()
        self._columns = _columns(name, network.config.id2label)
        # two fewer than positions: RoBERTa's begin behind its padding's number
        positions = int(getattr(network.config, "max_position_embeddings", _MOST_TOKENS)) - 2
        self._length = min(int(tokenizer.model_max_length), positions, _MOST_TOKENS)

    @property
    def signature(self) -> str:
        """How the relations are found; those called REVERSED have the roles swapped."""
        return f"NLI|model:{self.name}|premise:answer|hypothesis:reference|tie:{TIE_WITHIN:g}"

    @torch.inference_mode()
    def probabilities(
        self, premises: Sequence[str], hypotheses: Sequence[str]
    ) -> NDArray[np.float64]:
        """(n, 3), columns as RELATIONS. Longer pairs are cut; equal pairs are judged once."""
        pairs = list(zip(premises, hypotheses, strict=True))
        known: dict[tuple[str, str], NDArray[np.float64]] = {}
        unique = list(dict.fromkeys(pairs))
        for start in range(0, len(unique), _PAIRS_AT_ONCE):
            some = unique[start : start + _PAIRS_AT_ONCE]
            tokens = self._tokenizer(
                [premise for premise, _ in some],
                [hypothesis for _, hypothesis in some],
                padding=True,
                truncation=True,
                max_length=self._length,
                return_tensors="pt",
            ).to(self._network.device)
            logits = self._network(**tokens).logits[:, self._columns]
            found = logits.double().softmax(dim=-1).cpu().numpy()
            known |= dict(zip(some, found, strict=True))
        return np.array([known[pair] for pair in pairs]).reshape(-1, len(RELATIONS))

    def relations(
        self, answers: Sequence[str], references: Sequence[str]
    ) -> dict[str, NDArray[np.bool_]]:
        """For each relation and TIE, which answers (premises) have it to their references: (n,).

        The same with REVERSED behind it: which references, as premises, have it to the answers.
        """
        forward = _by_relation(self.probabilities(answers, references))
        backward = _by_relation(self.probabilities(references, answers))
        return forward | {f"{name}{REVERSED}": found for name, found in backward.items()}


def _by_relation(probabilities: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Relation -> where it is the likeliest, (n,); of each pair exactly one, TIE included."""
    ordered = np.sort(probabilities, axis=1)
    tie = ordered[:, -1] - ordered[:, -2] <= TIE_WITHIN
    likeliest = probabilities.argmax(axis=1)
    found = {name: (likeliest == at) & ~tie for at, name in enumerate(RELATIONS)}
    return found | {TIE: tie}


def _columns(name: str, labels: Mapping[int, str]) -> list[int]:
    """Which output is entailment, neutral, contradiction."""
    by_name = {str(label).lower(): int(at) for at, label in labels.items()}
    if by_name.keys() != set(RELATIONS):
        raise WeightsError(
            f"{name}: expected a model with the labels {', '.join(RELATIONS)} (id2label in its "
            f"config.json), got {', '.join(map(str, labels.values()))}; correct id2label, or give "
            "a model trained on MNLI."
        )
    return [by_name[relation] for relation in RELATIONS]


def load_judges(names: Sequence[str], device: torch.device | str = "cpu") -> dict[str, Judge]:
    """The judges by the names given: short ones (MODELS), OWNER/NAME on the hub, or folders.

    All are found before any is loaded; nothing is downloaded. Raises WeightsError, which says what
    to do.
    """
    folders = {name: _folder_of(name) for name in names}
    return {name: _load(name, folder, device) for name, folder in folders.items()}


def _folder_of(name: str) -> Path:
    given = Path(name).expanduser()
    if given.is_dir():
        return weight_file(given, given.name).parent
    full = MODELS.get(name, name)
    found = find_repository(full)
    if found is None:
        raise WeightsError(missing_message(full) if is_language(full) else _not_here(name))
    return found if found.is_dir() else found.parent


def _not_here(name: str) -> str:
    """What to do about a judge that the inventory does not list either."""
    looked_in = ", ".join(map(str, directories()))
    return (
        f"expected a judge that is on this machine ({', '.join(MODELS)}, the OWNER/NAME of another "
        f"sequence-pair model of transformers, or its folder), got {name!r}, which is not; fetch "
        f"it with `hf download OWNER/NAME`, or give its folder. Looked in {looked_in} and the "
        f"Hugging Face cache; {ENVIRONMENT_VARIABLE} adds a directory."
    )


def _load(name: str, folder: Path, device: torch.device | str) -> Judge:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{folder} cannot be loaded as a sequence-pair model of transformers ({reason}); it "
            "needs config.json, tokenizer.json and model.safetensors."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(
            f"{folder} has no values for {', '.join(missing[:3])}; expected a model that was "
            "trained to classify pairs of sentences."
        )
    return Judge(name, tokenizer, network.to(device))
