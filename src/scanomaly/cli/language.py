"""The verbs of answerers: vqa fit, vqa evaluate, vqa make-triples, ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanomaly.cli.answers import show_answers, write_asked
from scanomaly.cli.app import (
    ConfigOption,
    DataOption,
    DatasetOption,
    DeviceOption,
    DevicesOption,
    FitDeviceOption,
    FitPrecisionOption,
    PrecisionOption,
    PresetArgument,
    ResumeOption,
    SeedOption,
    SetOption,
    WorkersOption,
    app,
    chosen_run,
    fit_fields,
    given_options,
    progress_bar,
)
from scanomaly.cli.reports import write_vqa_reports

vqa_app = typer.Typer(
    help="Questions about an image, its anomaly map and its reconstruction, answered in words.",
    no_args_is_help=True,
)
app.add_typer(vqa_app, name="vqa")

CorpusOption = Annotated[
    Path,
    typer.Option("--data", help="Triples with questions: MI-VQA as published, or triples.jsonl."),
]


@vqa_app.command("fit")
def vqa_fit(
    data: CorpusOption,
    preset_name: PresetArgument = None,
    out: Annotated[Path, typer.Option("--out", help="Run folder to make.")] = Path("runs/vqa"),
    config: ConfigOption = None,
    assignments: SetOption = None,
    devices: DevicesOption = None,
    workers: WorkersOption = None,
    seed: SeedOption = None,
    precision: FitPrecisionOption = None,
    device: FitDeviceOption = "auto",
    resume: ResumeOption = False,
) -> None:
    """Train an answerer on triples with questions and answers."""
    from scanomaly.config.vqa import VqaRun
    from scanomaly.data.mivqa import read_corpus
    from scanomaly.presets import vqa_preset
    from scanomaly.vqa.fitting import fit

    fields = fit_fields(devices, workers, seed, precision, device)
    plain = chosen_run(preset_name, config, vqa_preset, VqaRun.load)
    run = plain.with_overrides(given_options(fields, assignments))
    fitted = fit(run, read_corpus(data), out, resume=resume)
    if fitted is not None:  # this is the main process
        typer.echo("\n".join(f"pretrained weights: {line}" for line in fitted.weights))
        typer.echo(f"fitted: {out}")


@vqa_app.command("evaluate")
def vqa_evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: CorpusOption,
    nli: Annotated[
        str,
        typer.Option(
            help="Models that judge whether open answers entail their references: bart, deberta, "
            "mdeberta, roberta, another OWNER/NAME that is on this machine, or folders; commas "
            "between them."
        ),
    ] = "",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Decode otherwise than run.yaml says: config.beams=1, config.greedy=true, or "
            "config.reference_decoding=true, as the released code does; may be given often.",
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Ask the questions of the test split: the only verb that touches it."""
    from scanomaly.data.mivqa import read_corpus
    from scanomaly.vqa.checkpoint import FittedAnswerer
    from scanomaly.vqa.evaluation import evaluate

    fitted = FittedAnswerer.load(run, device=device, decoding=assignments or ())
    judges = [name.strip() for name in nli.split(",") if name.strip()]
    with progress_bar("answering") as progress:
        evaluation = evaluate(fitted, read_corpus(data), nli=judges, progress=progress)
    write_vqa_reports(evaluation, run)


@vqa_app.command("make-triples")
def vqa_make_triples(
    run: Annotated[Path, typer.Argument(help="Run folder of a detector that reconstructs.")],
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")] = Path("mivqa"),
    dataset: DatasetOption = None,
    seed: Annotated[int, typer.Option(help="Of the choice among wordings.")] = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Turn labelled images into triples with questions; the same command goes on after a stop."""
    from scanomaly.data.manifest import read_manifest
    from scanomaly.inference import load
    from scanomaly.triples import make_triples

    fitted = load(run, device=device, precision=precision)
    with progress_bar("making triples") as progress:
        made = make_triples(fitted, read_manifest(data, dataset), out, seed=seed, progress=progress)
    left_out = f"; {len(made.failed)} images left out, named above" if made.failed else ""
    typer.echo(f"{made.triples} triples, {made.questions} questions{left_out}")
    typer.echo(f"triples: {made.file}")


@app.command()
def ask(
    run: Annotated[Path, typer.Argument(help="Run folder of a detector that reconstructs.")],
    vqa_run: Annotated[Path, typer.Argument(metavar="VQARUN", help="Run folder of an answerer.")],
    image: Annotated[Path, typer.Argument(help="One image.")],
    questions: Annotated[
        list[str] | None,
        typer.Option("--question", help="Instead of the seven standard ones; may be given often."),
    ] = None,
    uncertain_below: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="An answer is uncertain below this probability; of an open one that of its "
            "average word. At one half all other answers together are as likely.",
        ),
    ] = 0.5,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write answers.html and answers.json.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """From a scan to answers in words: a detector shows, an answerer tells."""
    from scanomaly import asking

    detector, answerer = asking.load_both(run, vqa_run, device=device, precision=precision)
    asked = asking.ask(
        detector,
        answerer,
        image,
        questions if questions else asking.STANDARD,
        uncertain_below=uncertain_below,
    )
    show_answers(asked)
    if out is not None:
        write_asked(asked, out)
