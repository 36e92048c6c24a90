"""A table of a paper, or our own, as data: which experiments make it and what they should give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scanomaly.metrics.answers import MEAN, SIGNATURES
from scanomaly.metrics.families import IMAGE_METRICS, PIXEL_METRICS

MI_VQA = "MI-VQA"
"""The data set of the tables of answers: a folder of triples with questions."""
NUMBERING = (
    "We have the paper's values without the table's number: that they are this table is our "
    "reading."
)
"""A note of several tables."""
SEED_PLACE = "{seed}"
"""In an option: the seed of the run."""

CLOSED = ("accuracy", "class_accuracy", "f1", "f1_macro")
RELATIONS = ("entailment", "neutral", "contradiction")
JUDGES: Mapping[str, str] = {
    "bart": "facebook/bart-large-mnli",
    "deberta": "MoritzLaurer/DeBERTa-v3-base-mnli-fever-anli",
    "mdeberta": "MoritzLaurer/mDeBERTa-v3-base-mnli-xnli",
    "roberta": "FacebookAI/roberta-large-mnli",
}
"""Short name of a judge of open answers -> its weights, as in vqa.nli, which would load torch."""
OPEN_SET_CLASSES: Mapping[str, str] = {"unhealthy": "No.", "healthy": "Yes.", "mean": MEAN}
"""Word in a metric's name -> the answer whose class it is."""

METRICS = frozenset(
    {
        *(f"image.{name}" for name in IMAGE_METRICS),
        *(f"pixel.{name}" for name in PIXEL_METRICS),
        *(f"closed.{name}" for name in CLOSED),
        *(f"open.{name}" for name in SIGNATURES if name not in CLOSED),
        *(f"nli.{judge}.{relation}" for judge in JUDGES for relation in RELATIONS),
        *(
            f"open_set.{cases}.{kind}.{name}"
            for cases in ("known", "unknown")
            for kind in OPEN_SET_CLASSES
            for name in ("precision", "recall", "f1", "accuracy")
        ),
    }
)
"""Every metric that a cell may name."""
PLAIN = frozenset({"open.cider"})
"""Metrics that are printed as they are; all others in percent."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One experiment of a table and the number it must give.

    preset: of `fit` or `vqa fit`; None: printed in the paper and not run here. options: as of
    --set. dataset: name in a BMAD-style folder. metric: as in metrics.json, such as "image.auroc".
    published: in percent, CIDEr as it is, None if the paper has none (for us: our own tables);
    published_std: over the paper's runs.
    """

    preset: str | None
    dataset: str
    metric: str
    published: float | None = None
    options: tuple[str, ...] = ()
    published_std: float | None = None


@dataclass(frozen=True, slots=True)
class TableRow:
    """A method or a setting; cells: column -> cell, columns of the table that it has.

    means: metric -> mean over the columns of it, where the paper prints no more than that.
    """

    label: str
    cells: Mapping[str, Cell]
    means: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Everything that a table says, besides our own numbers.

    gpu_hours: a rough estimate for one seed under the honest protocol, on one GPU of the size of an
    A100. compare: pairs of row labels whose paired difference a report shows. own_patients: whether
    every seed has patients of its own, so that seeds are independent. teachers: data sets that
    zero-shot rows learn from, where cells of their own do not name them.
    """

    name: str
    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    seeds: tuple[int, ...]
    gpu_hours: float
    notes: tuple[str, ...] = ()
    compare: tuple[tuple[str, str], ...] = ()
    own_patients: bool = False
    teachers: tuple[str, ...] = ()

    def cells(self) -> Iterator[tuple[str, str, Cell]]:
        """(row label, column, cell) of every cell, row by row."""
        for row in self.rows:
            for column in self.columns:
                if column in row.cells:
                    yield row.label, column, row.cells[column]

    def experiments(self) -> Iterator[tuple[str, str, Cell]]:
        """The same of the cells that are run here."""
        return (place for place in self.cells() if place[2].preset is not None)

    @property
    def has_published(self) -> bool:
        """Whether there is anything to stand beside."""
        return any(row.means for row in self.rows) or any(
            cell.published is not None for _, _, cell in self.cells()
        )

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets of its cells and those that teach them, each once."""
        scored = (cell.dataset for _, _, cell in self.cells())
        return tuple(dict.fromkeys((*scored, *self.teachers)))


IMAGE_COLUMN, PIXEL_COLUMN = "{} image", "{} pixel"
AUROC_COLUMNS: Mapping[str, str] = {IMAGE_COLUMN: "image.auroc", PIXEL_COLUMN: "pixel.auroc"}
MASKED = ("Brain", "Liver", "Retina_RESC")
BMAD_ORDER = ("Histopathology", "Chest", "Retina_OCT2017", *MASKED)
"""Columns as MVFA and IQE-CLIP print them: label-only sets first."""
Numbers = Mapping[str, Sequence[float | None]]
"""Data set -> published image AUROC and, where there are masks, pixel AUROC, in percent."""


def auroc_columns(datasets: Sequence[str]) -> tuple[str, ...]:
    """Columns of image AUROC and, where there are masks, pixel AUROC."""
    return tuple(
        column.format(name)
        for name in datasets
        for column in AUROC_COLUMNS
        if name in MASKED or column == IMAGE_COLUMN
    )


def auroc_row(
    label: str,
    preset: str | None,
    published: Numbers,
    options: Sequence[str] = (),
    std: Numbers | None = None,
) -> TableRow:
    """A method on several data sets. options: `{dataset}` in one stands for the data set's name."""
    cells = {}
    for dataset, numbers in published.items():
        own = tuple(option.replace("{dataset}", dataset) for option in options)
        spread = (std or {}).get(dataset, ())
        for at, (column, metric) in enumerate(list(AUROC_COLUMNS.items())[: len(numbers)]):
            cells[column.format(dataset)] = Cell(
                preset=preset,
                dataset=dataset,
                metric=metric,
                published=numbers[at],
                options=own,
                published_std=spread[at] if at < len(spread) else None,
            )
    return TableRow(label, cells)


def bmad_numbers(*values: float | tuple[float | None, float | None] | None) -> Numbers:
    """Published numbers in BMAD_ORDER: image AUROC alone, or (image, pixel)."""
    if len(values) != len(BMAD_ORDER):
        raise ValueError(f"expected a number for each of {BMAD_ORDER}, got {len(values)}.")
    return {
        name: value if isinstance(value, tuple) else (value,)
        for name, value in zip(BMAD_ORDER, values, strict=True)
    }


def few_shot_row(label: str, preset: str, shots: int, published: Numbers) -> TableRow:
    """A method with `shots` normal and abnormal images."""
    return auroc_row(label, preset, published, (f"data.shots={shots}",))
