"""MVFA: few-shot, zero-shot, and the paper's ablations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from scanomaly.config.data import DataConfig
from scanomaly.config.fit import FitOptions
from scanomaly.config.mvfa import AdapterConfig, LossConfig, MVFAConfig, ScoreConfig
from scanomaly.config.run import Run

PAPER = "MVFA, CVPR 2024 (arXiv 2403.12570)"

FEW_DATA = DataConfig(supervision="few_shot", shots=4, copies="mvfa")
ZERO_DATA = DataConfig(supervision="zero_shot")
FEW_FIT = FitOptions(
    epochs=50,
    batch_size=1,
    learning_rate=1e-3,
    schedule="constant",
    betas=(0.5, 0.999),
    seed=111,
    cache_features=True,
)
"""Released code (spec section 7); the cache changes no numbers."""
ZERO_FIT = FEW_FIT.model_copy(update={"learning_rate": 1e-4, "cache_features": False})
WRITTEN_FIT = {"batch_size": 16, "learning_rate": 1e-3}
"""Paper, section 4.1."""

BLOCKS = MVFAConfig().blocks
ADAPTERS_AS_WRITTEN = AdapterConfig(activation="relu", output_activation="none", mixing="together")
LOSS_AS_WRITTEN = LossConfig(pooled="max", classification="plain")


def _few(name: str, where: str, config: MVFAConfig | None = None, fit: FitOptions = FEW_FIT) -> Run:
    return Run(
        preset=name,
        source=f"{PAPER}, {where}",
        method="mvfa",
        config=config or MVFAConfig(),
        data=FEW_DATA,
        fit=fit,
    )


def _zero(name: str, where: str, config: MVFAConfig, fit: FitOptions = ZERO_FIT) -> Run:
    return Run(
        preset=name,
        source=f"{PAPER}, {where}",
        method="mvfa",
        config=config.model_copy(update={"setting": "zero_shot"}),
        data=ZERO_DATA,
        fit=fit,
    )


def mvfa_few() -> Run:
    return _few("mvfa-few", "Table 7, K = 4; released code")


def mvfa_zero() -> Run:
    return _zero("mvfa-zero", "Table 2; released code", MVFAConfig())


def mvfa_few_as_written() -> Run:
    """The paper's formulas wherever the released code departs from them (spec section 11)."""
    config = MVFAConfig(
        adapters=ADAPTERS_AS_WRITTEN,
        loss=LOSS_AS_WRITTEN,
        score=ScoreConfig(pooled="max", few_shot="paper"),
        bank_class_tokens=False,
    )
    fit = FEW_FIT.model_copy(update=WRITTEN_FIT)
    return _few("mvfa-few-as-written", "Table 7, K = 4; as written", config, fit)


def mvfa_zero_as_written() -> Run:
    config = MVFAConfig(
        adapters=ADAPTERS_AS_WRITTEN, loss=LOSS_AS_WRITTEN, score=ScoreConfig(pooled="max")
    )
    fit = ZERO_FIT.model_copy(update=WRITTEN_FIT)
    return _zero("mvfa-zero-as-written", "Table 2; as written", config, fit)


def mvfa_few_single_adapter() -> Run:
    config = MVFAConfig(adapters=AdapterConfig(heads="single"))
    return _few("mvfa-few-single-adapter", "ablation: one adapter for both tasks, K = 4", config)


def mvfa_zero_projectors() -> Run:
    projectors = AdapterConfig(kind="projector", activation="none", output_activation="none")
    return _zero(
        "mvfa-zero-projectors",
        "Table 4: projectors instead of adapters",
        MVFAConfig(adapters=projectors),
    )


def _level_alone(level: int) -> Run:
    return _few(
        f"mvfa-few-level-{level}",
        f"Table 5: trained and scored at level {level}",
        MVFAConfig(blocks=(BLOCKS[level - 1],)),
    )


def _level_of_all(level: int) -> Run:
    return _few(
        f"mvfa-few-all-levels-scored-{level}",
        f"Table 5: trained at all levels, scored at level {level}",
        MVFAConfig(scored_blocks=(BLOCKS[level - 1],)),
    )


LEVELS = range(1, len(BLOCKS) + 1)

MVFA_PRESETS: Mapping[str, Callable[[], Run]] = {
    "mvfa-few": mvfa_few,
    "mvfa-zero": mvfa_zero,
    "mvfa-few-as-written": mvfa_few_as_written,
    "mvfa-zero-as-written": mvfa_zero_as_written,
    "mvfa-few-single-adapter": mvfa_few_single_adapter,
    "mvfa-zero-projectors": mvfa_zero_projectors,
    **{f"mvfa-few-level-{level}": partial(_level_alone, level) for level in LEVELS},
    **{f"mvfa-few-all-levels-scored-{level}": partial(_level_of_all, level) for level in LEVELS},
}
