"""The gradient loop itself, on Lightning."""

from __future__ import annotations

import io
import logging
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from scanomaly.config.fit import FitOptions
from scanomaly.errors import FitError, FitInterrupted
from scanomaly.files import DiskError, write_bytes
from scanomaly.records import Draw
from scanomaly.training.objective import History, Objective, TrainingData, is_main_process
from scanomaly.training.optimisers import optimiser_and_schedule, parameter_groups
from scanomaly.training.sampling import (
    EpochSampler,
    InOrder,
    MicroBatches,
    as_it_is,
    epoch_seed,
)

logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
SECONDS_BETWEEN_PROGRESS_LINES = 10.0
QUIET = (
    ".*does not have many workers.*",
    ".*GPU available but not used.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*find_unused_parameters.*",
    ".*The dirpath has changed from.*",
    ".*is smaller than the logging interval.*",
    ".*Detected call of `lr_scheduler.step.*",
    ".*`isinstance.treespec, LeafSpec.` is deprecated.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*You defined a `validation_step` but have no `val_dataloader`.*",
    ".*module.s. in eval mode at the start of training.*",
)


class _Module(LightningModule):
    """Lightning's view of an objective. Checkpoints hold what training changes only."""

    strict_loading = False

    def __init__(self, objective: Objective, options: FitOptions, total_steps: int) -> None:
        super().__init__()
        self.model = objective.model
        self.options = options
        self.total_steps = total_steps
        self._loss = objective.loss
        self._rates = objective.rates
        self._criterion = objective.criterion
        self._own = objective.own
        self.automatic_optimization = objective.own is None or not objective.own.steps_itself
        self._statistics = {f"model.{name}" for name in objective.statistics}
        self._validation_images = 0 if objective.validation is None else len(objective.validation)

    def training_step(self, items: Any, _: int) -> Tensor:
        loss = self._loss(items)
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        return loss

    def validation_step(self, items: Any, index: int) -> None:
        size = self.options.micro_batch
        images = min(size, self._validation_images - index * size)  # the last batch is smaller
        self.log("val_loss", self._loss(items), on_epoch=True, sync_dist=True, batch_size=images)

    def on_train_start(self) -> None:
        if self._own is not None:
            self._own.begin(self.trainer)

    def on_train_batch_start(self, _: Any, index: int) -> None:
        # not on_train_epoch_start: the loader's iterator, which draws a number too, is made
        # before it in a run's first epoch and after it in all others
        if index == 0:
            torch.manual_seed(epoch_seed(self.options.seed, self.current_epoch, self.global_rank))

    def on_train_epoch_end(self) -> None:
        if self._criterion is not None:
            self.log("criterion", self._criterion.value(), rank_zero_only=True)
            self.train()

    def configure_optimizers(self) -> Any:
        if self._own is not None:
            return self._own.optimisers(self.total_steps)
        groups = parameter_groups(self.model, self._rates)
        return optimiser_and_schedule(groups, self.options, self.total_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        changed = {name for name, p in self.named_parameters() if p.requires_grad}
        changed |= self._statistics
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in changed}


class _Progress(Callback):
    """Losses of every epoch, and a log line now and then with the time left."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.validation: list[float] = []
        self._started = self._told = time.monotonic()
        self._first_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        return {"train": self.train, "validation": self.validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train, self.validation = list(state_dict["train"]), list(state_dict["validation"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first_epoch = trainer.current_epoch
        self._started = self._told = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validation.append(float(trainer.callback_metrics["val_loss"]))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.train.append(float(trainer.callback_metrics["train_loss"]))
        done, total = trainer.current_epoch + 1, trainer.max_epochs or 0
        now = time.monotonic()
        if now - self._told < SECONDS_BETWEEN_PROGRESS_LINES and done != total:
            return
        self._told = now
        left = (now - self._started) / (done - self._first_epoch) * (total - done)
        logger.info("epoch %d/%d  loss %.5f  %.0f s left", done, total, self.train[-1], left)


def run_loop(objective: Objective, options: FitOptions, run_dir: Path, *, resume: bool) -> History:
    """See `training.optimise`."""
    checkpoints = run_dir / "checkpoints"
    last = checkpoints / "last.ckpt"
    if not resume and checkpoints.exists() and is_main_process():
        shutil.rmtree(checkpoints)
    steps_per_epoch = len(objective.train) // options.batch_size
    module = _Module(objective, options, total_steps=max(1, options.epochs * steps_per_epoch))
    progress = _Progress()
    keeper = _checkpoint_keeper(objective, options, checkpoints)
    for chatty in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(f"{chatty}.utilities.rank_zero").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in QUIET:
            warnings.filterwarnings("ignore", message=message)
        trainer = _trainer(options, run_dir, [progress, *keeper], objective.partial)
        loaders = _loaders(objective, options, trainer)
        _run(trainer, module, loaders, _resumable(last) if resume else None)
    if objective.criterion is not None:
        objective.criterion.at_last()
    kept = _keep_best(keeper[0], objective)
    return History(tuple(progress.train), tuple(progress.validation), trainer.global_step, kept)


def _resumable(last: Path) -> Path | None:
    """The checkpoint to go on from; None before the first one. Raises FitError if damaged."""
    if not last.exists():
        return None
    try:
        torch.load(last, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # a damaged archive breaks in a dozen ways
        raise FitError(
            f"{last} is damaged ({type(error).__name__}); restore it, or remove it to train from "
            "the beginning."
        ) from error
    return last


class _Keeper(ModelCheckpoint):
    """Finds its files again in a run folder that was moved or copied.

    A departure from KQ-Former VQA (spec section 8), which keeps the two best checkpoints beside the
    last: only the best is ever loaded, and a second one would fill the disk.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before, now = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {moved(key): score for key, score in value.items()}
            return now + value[len(before) :] if str(value).startswith(before) else value

        super().load_state_dict({name: moved(value) for name, value in state_dict.items()})


class _CheckpointFiles(TorchCheckpointIO):
    """Writes beside the old file and renames.

    Lightning writes into the system's temporary folder and moves from there, which on another
    disk is a copy over the only checkpoint there is.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getvalue())


def _checkpoint_keeper(
    objective: Objective, options: FitOptions, folder: Path
) -> list[ModelCheckpoint | EarlyStopping]:
    if objective.criterion is not None:
        best = _Keeper(
            folder,
            filename="best",
            monitor="criterion",
            mode="max",
            save_last=True,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        return [best]
    if options.patience is None:
        return [_Keeper(folder, filename="last", enable_version_counter=False)]
    if objective.validation is None:
        raise FitError(
            "fit.patience needs validation images of healthy patients, and there are none; "
            "unset it or give a data set with a validation split."
        )
    return [
        _Keeper(
            folder,
            filename="best",
            monitor="val_loss",
            save_last=True,
            enable_version_counter=False,
        ),
        EarlyStopping("val_loss", patience=options.patience),
    ]


def _trainer(options: FitOptions, run_dir: Path, callbacks: list[Any], partial: bool) -> Trainer:
    several = "ddp_find_unused_parameters_true" if partial else "ddp"
    return Trainer(
        default_root_dir=run_dir,
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        strategy=several if options.devices * options.nodes > 1 else "auto",
        precision=PRECISIONS[options.precision],  # type: ignore[arg-type]
        max_epochs=options.epochs,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.gradient_clip,
        callbacks=callbacks,
        plugins=[_CheckpointFiles()],
        logger=[
            CSVLogger(run_dir, "logs", "csv"),
            TensorBoardLogger(run_dir, "logs", "tensorboard"),
        ],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _loaders(
    objective: Objective, options: FitOptions, trainer: Trainer
) -> tuple[DataLoader[Any], DataLoader[Any] | None]:
    world = options.devices * options.nodes
    sampler = EpochSampler(len(objective.train), options, trainer.global_rank, world)

    def loader(data: TrainingData, batches: Sampler[list[Draw]]) -> DataLoader[Any]:
        # as `sampler`, not `batch_sampler`: only there does Lightning call set_epoch
        return DataLoader(
            MicroBatches(data),
            batch_size=None,
            sampler=batches,
            collate_fn=as_it_is,
            num_workers=options.workers,
        )

    validation = objective.validation
    if validation is None:
        return loader(objective.train, sampler), None
    return loader(objective.train, sampler), loader(
        validation, InOrder(len(validation), options.micro_batch)
    )


def _run(
    trainer: Trainer,
    module: _Module,
    loaders: tuple[DataLoader[Any], DataLoader[Any] | None],
    resume_from: Path | None,
) -> None:
    try:
        trainer.fit(module, *loaders, ckpt_path=resume_from, weights_only=True)
    except (SystemExit, KeyboardInterrupt) as stop:
        raise FitInterrupted(_stopped(trainer)) from stop
    except DiskError as error:
        raise FitError(f"{error} {_stopped(trainer)}") from error
    except OSError as error:  # images raise DataError: what fails here is writing a log
        where, why = error.filename or trainer.default_root_dir, error.strerror or error
        raise FitError(f"{where}: {why}; make room there. {_stopped(trainer)}") from error
    if trainer.interrupted:
        raise FitInterrupted(_stopped(trainer))
    if not all(torch.isfinite(p).all() for p in module.parameters() if p.requires_grad):
        raise FitError(
            "training ended with weights that are not finite; "
            "lower fit.learning_rate or use fit.precision=fp32."
        )


def _stopped(trainer: Trainer) -> str:
    return (
        f"training was stopped in epoch {trainer.current_epoch + 1} of {trainer.max_epochs}; "
        "every finished epoch is kept: the same command with --resume goes on."
    )


def _keep_best(keeper: Any, objective: Objective) -> str:
    """Put the chosen weights into the model; says which they are."""
    if keeper.monitor is None:
        return "last epoch"
    state = torch.load(keeper.best_model_path, weights_only=True)["state_dict"]
    weights = {name.removeprefix("model."): value for name, value in state.items()}
    objective.model.load_state_dict(weights, strict=False)
    return objective.criterion.name if objective.criterion else "best validation loss"
