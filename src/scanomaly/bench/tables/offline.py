"""Our leaderboard: the methods and baselines that work offline, on five simulated styles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from scanomaly.bench.simulation import FINER, PATIENTS, SLICES
from scanomaly.bench.tables.table import SEED_PLACE, Cell, Table, TableRow
from scanomaly.data.phantom import STYLES

SEEDS = (0, 1, 2)
"""Our choice: of the patients, of the support and of training alike."""
BRAIN = STYLES["brain"].name
STYLE_SETS: Mapping[str, bool] = {style.name: style.has_masks for style in STYLES.values()}
"""Data set -> whether it has masks."""
COLUMNS: Mapping[str, str] = {
    **{f"{name} image": "image.auroc" for name in STYLE_SETS},
    **{f"{name} pixel": "pixel.ap" for name, has_masks in STYLE_SETS.items() if has_masks},
}
SUPPORT = f"data.support=seed:{SEED_PLACE}"
TARGET = "data.target={dataset}"
SIMULATED = (
    f"ours; the data are simulated by `scanomaly phantom --styles all --patients {PATIENTS} "
    f"--slices {SLICES} --finer {FINER}`, once a seed"
)
SHOTS = (2, 4, 8, 16)
LIKE_SHOTS = 4
"""K of the rows that are set against each other."""


def _row(
    label: str, preset: str, options: Sequence[str] = (), own: Mapping[str, str] | None = None
) -> TableRow:
    """own: data set -> a preset of its own. options: `{dataset}` stands for the data set's name."""
    presets = own or {}
    cells = {}
    for column, metric in COLUMNS.items():
        dataset = column.split(" ")[0]
        given = tuple(option.replace("{dataset}", dataset) for option in options)
        cells[column] = Cell(presets.get(dataset, preset), dataset, metric, None, given)
    return TableRow(label, cells)


def _few(label: str, preset: str, shots: int) -> TableRow:
    return _row(f"{label}, K = {shots}", preset, (f"data.shots={shots}", SUPPORT))


QFAE = "QFAE, normal images"
NORMAL_ROWS: Mapping[str, str] = {
    "PatchCore, normal images": "patchcore-offline",
    "PaDiM, normal images": "padim-offline",
    "STFPM, normal images": "stfpm-offline",
    "CFA, normal images": "cfa-offline",
}
"""anomalib's models on EfficientNet-Lite0, taught by the same normal images: label -> preset."""
SLOW_ROWS: Mapping[str, str] = {
    "CFLOW, normal images": "cflow-offline",
    "CS-Flow, normal images": "csflow-offline",
    "SuperSimpleNet, normal images": "supersimplenet-offline",
    "DRAEM, normal images": "draem-offline",
    "GANomaly, normal images": "ganomaly-offline",
}
"""The same, that would not end in the leaderboard's three hours."""
MVFA_4, IQE_4 = f"MVFA, K = {LIKE_SHOTS}", f"IQE-CLIP, K = {LIKE_SHOTS}"
CORE_4 = f"PatchCore on tiny-CLIP, K = {LIKE_SHOTS}"
MVFA_ZERO, IQE_ZERO = "MVFA, zero-shot", "IQE-CLIP, zero-shot"
PROMPTS, WINCLIP = "frozen CLIP, prompts alone", "WinCLIP on tiny-CLIP, zero-shot"


def _language_rows() -> dict[str, TableRow]:
    """What a CLIP gives, with and without training: label -> row."""
    rows = (
        *(_few("MVFA", "mvfa-offline-few", shots) for shots in SHOTS),
        _few("IQE-CLIP", "iqe-offline-few", LIKE_SHOTS),
        _few("PatchCore on tiny-CLIP", "patchcore-tiny-clip", LIKE_SHOTS),
        _row(MVFA_ZERO, "mvfa-offline-zero", (TARGET,)),
        _row(IQE_ZERO, "iqe-offline-zero", (TARGET,)),
        _row(WINCLIP, "winclip-offline-zero"),
        _row(PROMPTS, "clip-prompts-offline"),
    )
    return {row.label: row for row in rows}


LANGUAGE_PAIRS = (
    (MVFA_4, CORE_4),
    (IQE_4, CORE_4),
    (MVFA_4, PROMPTS),
    (IQE_4, PROMPTS),
    (IQE_4, MVFA_4),
    (MVFA_ZERO, PROMPTS),
    (IQE_ZERO, PROMPTS),
)
SIMULATED_NOTES = (
    "image: AUROC; pixel: average precision, of the styles that have masks.",
    "Simulated images are no patients: the ranking here says little about the clinic.",
)


def _table(
    name: str,
    title: str,
    rows: Iterable[TableRow],
    *,
    notes: Iterable[str],
    compare: Iterable[tuple[str, str]],
) -> Table:
    return Table(
        name=name,
        title=title,
        source=SIMULATED,
        columns=tuple(COLUMNS),
        rows=tuple(rows),
        seeds=SEEDS,
        gpu_hours=0.0,
        notes=(*notes, *SIMULATED_NOTES),
        compare=tuple(compare),
        own_patients=True,
    )


def five_styles() -> Table:
    """The part of `offline` that compares what is done with one and the same CLIP."""
    rows = _language_rows()
    return _table(
        "five-styles",
        "MVFA and IQE-CLIP on five simulated styles",
        (rows[name] for name in (MVFA_4, IQE_4, CORE_4, PROMPTS, MVFA_ZERO, IQE_ZERO)),
        notes=("Rows of the table `offline`, which shares their runs.",),
        compare=LANGUAGE_PAIRS,
    )


def _beside_qfae(presets: Mapping[str, str]) -> tuple[TableRow, ...]:
    """QFAE, and a row for each label and preset."""
    qfae = _row(QFAE, "qfae-offline-from-scratch", own={BRAIN: "qfae-offline"})
    return (qfae, *(_row(label, preset) for label, preset in presets.items()))


def offline_slow() -> Table:
    """What the leaderboard leaves out for its time."""
    few = _few("WinCLIP on tiny-CLIP", "winclip-offline-few", LIKE_SHOTS)
    return _table(
        "offline-slow",
        "What the leaderboard leaves out for its time, on five simulated styles",
        (*_beside_qfae(SLOW_ROWS), _language_rows()[MVFA_4], few),
        notes=("QFAE and MVFA are rows of the table `offline`, which shares their runs.",),
        compare=(*((QFAE, label) for label in SLOW_ROWS), (MVFA_4, few.label)),
    )


def offline() -> Table:
    return _table(
        "offline",
        "What works offline, on five simulated styles",
        (*_beside_qfae(NORMAL_ROWS), *_language_rows().values()),
        notes=(
            "No graphics card: two CPU cores take about 37 minutes for the first seed (--quick). "
            "`offline-slow` has what would take longer than three hours for three.",
            "QFAE starts from its warm start on brain, which it was made for, and from scratch on "
            "the other styles.",
        ),
        compare=(
            *((QFAE, label) for label in NORMAL_ROWS),
            *LANGUAGE_PAIRS,
            (MVFA_ZERO, WINCLIP),
        ),
    )


OFFLINE_TABLES: Mapping[str, Callable[[], Table]] = {
    "offline": offline,
    "five-styles": five_styles,
    "offline-slow": offline_slow,
}
