"""What a published layout is, and how every entry of a file is accounted for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scanomaly.backbones.loading import Shapes, compare_shapes
from scanomaly.config.experiment import Experiment
from scanomaly.errors import CheckpointError
from scanomaly.importing.published import Published

VQA = "vqa"
"""`Layout.method` of answerers, whose runs name none."""

Names = Mapping[str, str]
"""Beginning of published keys, up to a dot -> the same in our names."""
Facts = Mapping[str, Any]
"""What a file and a run can be compared by before anything is built: words -> value."""
Reasons = Mapping[str, str]
"""Pattern of whole published keys -> why they are left out."""

CLOSE = 1e-4
"""How far frozen values may be from ours, as a share of the largest (or of 1)."""


def as_published(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return tensors


def no_facts(file: Path) -> Facts:
    return {}


@dataclass(frozen=True, slots=True)
class Layout:
    """How one published system keeps its weights.

    name: the word behind `scanomaly import`. method: of runs, or VQA. system: in words. origin:
    where the code is, and its licence. trained, chosen: what, as its authors say, taught the
    weights and chose the checkpoint. mark: pattern of a key that this layout alone has. names: of
    a run's configuration. left_out: never taken. optional: left out where our model has no such
    tensor. made_here: pattern of our own names that no published file holds. facts: of a file's
    shapes. named: of its path. facts_of: of a run for a data set. arrange: several published
    tensors that are one of ours.
    """

    name: str
    method: str
    system: str
    origin: str
    trained: str
    chosen: str
    mark: str
    names: Callable[[Any], Names]
    facts: Callable[[Shapes], Facts]
    facts_of: Callable[[Experiment, str | None], Facts]
    left_out: Reasons
    optional: Reasons
    made_here: str = r"(?!)"
    named: Callable[[Path], Facts] = no_facts
    arrange: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = as_published

    def recognises(self, shapes: Shapes) -> bool:
        return any(re.match(self.mark, key) for key in shapes)


@dataclass(frozen=True, slots=True)
class Account:
    """Where every entry of a file goes. published: its tensors, arranged.

    taken, compared: our name -> published key, of fitted tensors and of frozen ones, which must be
    equal. left_out: published key -> why.
    """

    published: Mapping[str, Tensor]
    taken: Mapping[str, str]
    compared: Mapping[str, str]
    left_out: Mapping[str, str]

    @property
    def reasons(self) -> tuple[str, ...]:
        """How many entries were left out, reason by reason."""
        whys = list(self.left_out.values())
        return tuple(f"{whys.count(why)} entries left out: {why}" for why in dict.fromkeys(whys))


def account(
    published: Published,
    layout: Layout,
    config: Any,
    fitted: Mapping[str, Tensor],
    frozen: Mapping[str, Tensor],
) -> Account:
    """Give every entry its place in a model's fitted or frozen tensors, by names and shapes alone.

    Raises CheckpointError listing what is unknown, missing or of another shape.
    """
    tensors, names = layout.arrange(published.tensors), layout.names(config)
    taken: dict[str, str] = {}
    compared: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for key in tensors:
        ours = _translated(key, names)
        why = _reason(key, layout.left_out)
        if why is None and ours in fitted:
            taken[str(ours)] = key
        elif why is None and ours in frozen:
            compared[str(ours)] = key
        elif (why := why or _reason(key, layout.optional)) is not None:
            left_out[key] = why
    made_here = re.compile(layout.made_here)
    wanted = {
        taken.get(ours) or _published_name(ours, names): tensor
        for ours, tensor in fitted.items()
        if ours in taken or not made_here.fullmatch(ours)
    } | {key: frozen[ours] for ours, key in compared.items()}
    found = {key: tensor for key, tensor in tensors.items() if key not in left_out}
    strange: Shapes = dict.fromkeys(published.strange, ())
    differences = compare_shapes(_shapes(wanted), {**_shapes(found), **strange})
    if differences:
        raise CheckpointError(
            f"{published.file} does not fit this model as a checkpoint of {layout.system}: "
            f"{'; '.join(differences)}. Give the preset, and with --set the sizes, that it was "
            "trained with."
        )
    return Account(tensors, taken, compared, left_out)


def fill_in(
    counted: Account, fitted: Mapping[str, Tensor], frozen: Mapping[str, Tensor], file: Path
) -> None:
    """Copy fitted values into a model; compare frozen ones with its own.

    Raises CheckpointError for frozen weights other than ours, and for values that are not finite.
    """
    with torch.no_grad():
        for ours, key in counted.taken.items():
            value = counted.published[key]
            if not bool(value.isfinite().all()):
                raise CheckpointError(f"{file}: {key} holds NaN or infinity; fetch it again.")
            fitted[ours].copy_(value)
    for ours, key in counted.compared.items():
        _require_equal(frozen[ours].cpu(), counted.published[key], f"{file}: {key}")


def _require_equal(ours: Tensor, theirs: Tensor, where: str) -> None:
    atol = CLOSE * max(1.0, float(ours.abs().max()))
    difference = float((ours.float() - theirs.float()).abs().max())
    if not difference <= atol:  # NaN is different too
        raise CheckpointError(
            f"{where} differs by up to {difference:.2g} from the frozen values found here, with "
            "which these weights would mean something else; give the preset of the same backbone, "
            "and see `scanomaly weights verify`."
        )


def _translated(key: str, names: Names) -> str | None:
    """Our name of a published key, by the longest beginning that is known."""
    parts = key.split(".")
    for count in range(len(parts), 0, -1):
        ours = names.get(".".join(parts[:count]))
        if ours is not None:
            return ".".join([ours, *parts[count:]])
    return None


def _published_name(ours: str, names: Names) -> str:
    """The way back; a name of which no published file knows stays ours."""
    theirs = _translated(ours, {mine: published for published, mine in names.items()})
    return f"{ours} (ours)" if theirs is None else theirs


def _reason(key: str, reasons: Reasons) -> str | None:
    return next((why for pattern, why in reasons.items() if re.fullmatch(pattern, key)), None)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def count_of(shapes: Shapes, pattern: str) -> int:
    """How many numbers the group of `pattern` takes among the keys."""
    return len({found[1] for key in shapes if (found := re.match(pattern, key))})
