"""The published KQ-Former VQA's state-dict names -> ours (specification, section 13)."""

from collections.abc import Iterable, Mapping

from torch import Tensor

PREFIXES = {
    "img_encoder_q.model.": "encoder.network.",
    "embed_img2.": "fusion.reduce.",
    "embed_img.": "fusion.mix.",
    "qformer.model.": "fusion.former.model.",
    "qformer.embed_1.head.": "fusion.head.",
    "decoder.": "decoder.",
}


def renamed(state: Mapping[str, Tensor], ours: Iterable[str]) -> dict[str, Tensor]:
    """What the published model shares with one that has the tensors `ours`.

    Published models hold heads and maps that they never use. Raises StopIteration for a name with
    another beginning.
    """
    wanted, found = set(ours), {}
    for name, tensor in state.items():
        start = next(start for start in PREFIXES if name.startswith(start))
        new = PREFIXES[start] + name.removeprefix(start)
        if new in wanted and "word_embeddings" not in new:
            found[new] = tensor
    return found
