"""The checks, in the order of the table. Each looks at one set and yields what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from scanomaly.doctor.checks import across, depth, duplicates, files, masks, published, shortcuts
from scanomaly.doctor.checks import splits as divisions
from scanomaly.doctor.findings import Examined, Finding
from scanomaly.doctor.survey import Survey

Check = Callable[[Survey], Iterator[Finding]]
CheckAcross = Callable[[Sequence[Examined], across.Digests], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    files.refused_layout,
    files.unreadable,
    files.not_finite,
    files.constant,
    files.wrong_suffix,
    files.left_over,
    masks.masks_as_images,
    masks.mask_levels,
    masks.mask_sizes,
    masks.mask_contents,
    masks.missing_masks,
    masks.shared_masks,
    divisions.patients,
    divisions.classes,
    divisions.unlabelled,
    duplicates.exact,
    duplicates.near,
    depth.mixed_depth,
    depth.converted,
    depth.clipped,
    depth.window,
    shortcuts.labels,
    shortcuts.splits,
    published.counts,
    published.size,
    published.few_shot_lists,
    published.peculiarities,
)
"""Of each set by itself."""

CHECKS_ACROSS: tuple[CheckAcross, ...] = (
    across.same_set_twice,
    across.shared_pictures,
    across.siblings,
    across.missing_sets,
)
"""Of all sets of a folder together."""
