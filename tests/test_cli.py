"""The command line from its words to files and exit codes; its errors are in `test_bad_input`.

Almost all in this process; the last class starts the installed command. What needs a process of
its own besides is in `test_package` (--help loads nothing heavy) and `test_demo`.
"""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import scanomaly
from methods.tiny_detectors import RESNET
from scanomaly.backbones.weights import INVENTORY
from scanomaly.config.run import load_run
from scanomaly.fitting import fit
from scanomaly.methods.reconstruction import ReconstructionDetector
from scanomaly.presets import PRESETS, VQA_PRESETS
from scanomaly.report import page as report_page
from scanomaly.run_folder import read_state
from scanomaly.training import History
from tiny_runs import TinyRun, save_image, slice_pixels


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fit` without its gradient loop."""

    def pretend(self, train, validation=None, *, options, run_dir, resume=False, criterion=None):
        return History((1.0,), (), 1, "last epoch")

    monkeypatch.setattr(ReconstructionDetector, "fit", pretend)


def fit_words(tiny: TinyRun, out: Path, data: Path | None = None) -> list[object]:
    """Of the tiny run, once more."""
    config = tiny.folder / "run.yaml"
    return ["fit", "--config", config, "--data", data or tiny.data, "--out", out]


class TestInventory:
    """Verbs that only tell."""

    def test_help_names_every_verb(self, command):
        for done in (command("--help"), command()):
            assert re.search(r"Usage: scanomaly ", done.out)
            for verb in ("fit", "evaluate", "predict", "figures", "phantom", "demo"):
                assert re.search(rf"^\W*{verb} ", done.out, re.M), verb
            for verb in ("weights", "presets"):
                assert re.search(rf"^\W*{verb} ", done.out, re.M), verb
        assert command("--version").out == f"scanomaly {scanomaly.__version__}\n"

    def test_it_starts_as_a_module_too(self):
        words = [sys.executable, "-m", "scanomaly", "--version"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert done.stdout == f"scanomaly {scanomaly.__version__}\n"

    def test_presets_have_a_line_each(self, command):
        lines = command("presets").out.splitlines()
        assert [line.split()[0] for line in lines[1:]] == [*PRESETS, *VQA_PRESETS]

    def test_weights_list_tells_size_licence_place_and_users(self, command, tiny, monkeypatch):
        monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tiny.weights))
        lines = {line.split()[0]: line for line in command("weights", "list").out.splitlines()[1:]}
        assert lines.keys() == INVENTORY.keys()
        assert str(tiny.weights / RESNET) in lines[RESNET]
        mae = lines["vit_large_patch16_224.mae"]
        assert re.search(r" 1213 .*non-commercial.* qfae-brain and \d+ more", mae)

    def test_weights_verify(self, command, tiny, tmp_path):
        done = command("weights", "verify", tiny.weights)
        assert (done.code, done.out) == (0, f"{tiny.weights}/{RESNET}/model.safetensors: ok\n")
        file = shutil.copytree(tiny.weights, tmp_path / "w") / RESNET / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        done = command("weights", "verify", tmp_path / "w")
        assert done.code == 2
        assert f"{file}: " in done.out
        assert ": ok" not in done.out

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["paint"], r"No such command.*paint"),
            (["fit", "--speed", "9"], r"No such option: --speed"),
            (["fit", "qfae-brain"], r"Missing option '--data'"),
            (["evaluate", "--debug"], r"Missing argument"),
            (["fit", "x", "--data", "d", "--protocol", "hopeful"], r"'hopeful' is not one of"),
            (["phantom", "out", "--patients", "many"], r"--patients'?: .*valid int"),
        ],
    )
    def test_unknown_words_are_refused_with_the_usage(self, command, words, message):
        done = command(*words)
        assert done.code == 2
        assert re.search(message, " ".join(done.err.split()), re.IGNORECASE)
        assert "Usage: scanomaly" in done.err
        assert "Traceback" not in done.err

    @pytest.mark.parametrize(("words", "expected"), [([], "0"), (["--offline"], "1")])
    def test_offline_tells_the_hub(self, command, monkeypatch, words, expected):
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        assert command(*words, "presets").code == 0
        assert os.environ["HF_HUB_OFFLINE"] == expected


class TestVerbs:
    """What the working verbs do with their options."""

    def test_fit(self, command, tiny, tmp_path):
        out = tmp_path / "run"
        options = ["--seed", 5, "--precision", "bf16", "--workers", 0, "--device", "cpu"]
        done = command(*fit_words(tiny, out), "--set", "fit.epochs=1", *options)
        assert done.code == 0, done.err
        weights = "pretrained weights: resnet18.a1_in1k: Apache-2.0"
        assert done.out.splitlines() == [weights, f"fitted: {out}"]
        run = load_run(out)
        assert (run.fit.epochs, run.fit.seed, run.fit.precision) == (1, 5, "bf16")
        assert (run.fit.accelerator, run.protocol) == ("cpu", "honest")
        assert (run.config, run.data) == (tiny.run.config, tiny.run.data)
        assert "10 good" in done.err
        assert "epoch 1/1" in done.err

    def test_quiet_says_nothing_but_the_result(self, command, tiny, tmp_path, untrained):
        done = command("--quiet", *fit_words(tiny, tmp_path / "run"), "--protocol", "paper")
        assert (done.code, done.err) == (0, "")
        assert load_run(tmp_path / "run").protocol == "paper"

    @pytest.mark.parametrize(
        ("given", "kept"), [([], "paper"), (["--protocol", "honest"], "honest")]
    )
    def test_a_given_run_keeps_its_protocol_unless_told(
        self, command, tiny, tmp_path, untrained, given, kept
    ):
        tiny.run.under("paper").save(tmp_path)
        words = ["fit", "--config", tmp_path / "run.yaml", "--data", tiny.data]
        assert command(*words, "--out", tmp_path / "run", *given).code == 0
        assert load_run(tmp_path / "run").protocol == kept

    def test_evaluate(self, command, tiny, run_copy):
        done = command("evaluate", run_copy, "--data", tiny.data)
        assert done.code == 0, done.err
        assert re.search(r"^pixel aupro_0\.3: \d\.\d{3} \[", done.out, re.M)
        own = run_copy / "evaluations" / "Brain-honest"
        assert done.out.endswith(f"report: {own}/report.html\n")
        names = {"metrics.json", "predictions.csv", "report.html", "report.md"}
        assert {path.name for path in own.iterdir()} == names
        for name in names - {"report.html"}:
            assert (own / name).read_bytes() == (run_copy / name).read_bytes(), "mirrored"
        metrics = json.loads((run_copy / "metrics.json").read_text())
        found = re.search(r"^image auroc: (\d\.\d{3}) \[\d\.\d{3}, \d\.\d{3}\]$", done.out, re.M)
        assert metrics["image"]["auroc"]["value"] == pytest.approx(float(found[1]), abs=5e-4)
        assert metrics["pixel_grid"] == "model 32x32"

    def test_evaluate_says_what_is_undefined_and_what_the_paper_did(
        self, command, tiny, run_copy, tmp_path
    ):
        shutil.copytree(tiny.data / "test" / "good", tmp_path / "Brain" / "test" / "good")
        options = ["--protocol", "paper", "--pixel-grid", "native", "--device", "cpu"]
        done = command("evaluate", run_copy, "--data", tmp_path / "Brain", *options)
        assert done.code == 0, done.err
        assert "image auroc: undefined: one class only: 6 normal, 0 abnormal images\n" in done.out
        assert "pixel auroc: undefined: this data set has no masks\n" in done.out
        assert "note: Published protocol: test files are shuffled (seed 3, " in done.out
        own = run_copy / "evaluations" / "Brain-paper"
        metrics = json.loads((own / "metrics.json").read_text())
        assert (metrics["protocol"], metrics["pixel_grid"]) == ("paper", "native, each file's own")

    def test_without_the_report_extra_the_numbers_are_safe(
        self, command, tiny, run_copy, monkeypatch
    ):
        monkeypatch.setattr(report_page, "find_spec", lambda name: None)
        error = command("evaluate", run_copy, "--data", tiny.data).error
        assert re.search(r'report\.html needs jinja2 .* pip install "scanomaly\[report\]"', error)
        assert (run_copy / "evaluations" / "Brain-honest" / "metrics.json").is_file()

    def test_predict(self, command, tiny, tmp_path):
        save_image(tmp_path / "more" / "deep" / "scan.png", slice_pixels(0)[0])
        out = tmp_path / "out"
        done = command("predict", tiny.folder, tiny.scan, tmp_path / "more", "-o", out)
        assert (done.code, done.out) == (0, f"predictions: {out}/predictions.csv\n")
        assert re.search(rf"^{tiny.scan.stem},.*,1$", (out / "predictions.csv").read_text(), re.M)
        assert (out / "maps" / "deep" / "scan.npy").is_file()

    def test_predict_writes_into_the_run_unless_told_where(self, command, tiny, run_copy):
        done = command("predict", run_copy, tiny.scan)
        assert (done.code, done.out) == (
            0,
            f"predictions: {run_copy}/predictions/predictions.csv\n",
        )
        assert (run_copy / "predictions" / "overlays" / f"{tiny.scan.stem}.png").is_file()

    def test_figures(self, command, refused, tiny, run_copy, tmp_path):
        done = command("figures", run_copy, "--data", tiny.data, "--seed", 4)
        assert done.code == 0, done.err
        names = ["tsne-features-images.png", "points-images.csv"]
        assert done.out.splitlines() == [f"figure: {run_copy}/figures/{name}" for name in names]
        lines = (run_copy / "figures" / names[1]).read_text().splitlines()
        assert len(lines) == 1 + 2 * 8, "two stages of the validation images"
        out = tmp_path / "elsewhere"
        words = ["figures", run_copy, "--data", tiny.data, "--split", "train", "--out", out]
        assert command(*words, "--patches").code == 2, "normal images only have no masks"
        assert not out.exists()
        shutil.copytree(tiny.data / "test", tmp_path / "Brain" / "test")
        message = r"Brain: expected at least 6 labelled images in valid .* Figures never show the t"
        refused(message, "figures", run_copy, "--data", tmp_path / "Brain")

    def test_demo_refuses_what_it_does_not_know(self, refused, tmp_path):
        words = ["demo", "--out", tmp_path / "demo"]
        refused(r"no method 'x' to show; there are qfae, mvfa, iqe", *words, "--method", "x")
        refused(r"no style 'x' to show; there are brain, oct", *words, "--style", "x")
        message = "--with-vqa has a method and data of its own; leave out --method and --style"
        for option, value in (("--method", "mvfa"), ("--style", "x"), ("--method", "qfae")):
            refused(message, *words, "--with-vqa", option, value)
        assert not (tmp_path / "demo").exists()

    def test_phantom(self, command, refused, tmp_path):
        out = tmp_path / "phantom"
        words = ["phantom", out, "--patients", 6, "--seed", 3, "--contrast", "FLAIR"]
        assert command(*words).out == f"phantom: {out}/phantom.csv\n"
        manifest = scanomaly.read_manifest(out)
        assert {row.split for row in manifest} == {"train", "valid", "test"}
        assert len({row.patient for row in manifest}) == 6
        assert manifest.has_masks
        assert not manifest.patient_overlap()
        refused(r"already holds .*give another folder or remove", *words)

    def test_phantoms_with_skull(self, command, refused, tmp_path):
        for option, patients in (("--skull", 6), ("--vqa", 20)):
            out = tmp_path / option[2:]
            words = ["phantom", out, "--patients", patients, "--contrast", "T1", option]
            assert command(*words).out == f"phantom: {out}/phantom.csv\n"
            trained = scanomaly.read_manifest(out).split("train")
            assert bool(trained.abnormals().rows) == (option == "--vqa")
        refused(r"expected one of .*got several", "phantom", tmp_path / "new", "--skull", "--vqa")
        refused(
            "--finer is not for whole heads", "phantom", tmp_path / "new", "--skull", "--finer", 2
        )


class TestFailure:
    """Ctrl-C, a full disk and our own mistakes, in this process."""

    def test_ctrl_c_before_training(self, command, tiny, tmp_path, monkeypatch):
        def press(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(ReconstructionDetector, "build", press)
        done = command(*fit_words(tiny, tmp_path / "run"))
        assert done.code == 2
        assert done.err.splitlines()[-1] == "stopped."
        assert not (tmp_path / "run").exists()

    def test_ctrl_c_while_scoring_keeps_the_last_evaluation(
        self, command, tiny, run_copy, monkeypatch
    ):
        assert command("evaluate", run_copy, "--data", tiny.data).code == 0
        before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}

        def press(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(ReconstructionDetector, "predict", press)
        done = command("evaluate", run_copy, "--data", tiny.data)
        assert (done.code, done.err.splitlines()[-1]) == (2, "stopped.")
        assert before == {p: p.read_bytes() for p in run_copy.rglob("*") if p.is_file()}

    def test_a_full_disk_keeps_the_last_report(self, refused, command, tiny, run_copy, monkeypatch):
        assert command("evaluate", run_copy, "--data", tiny.data).code == 0
        own = run_copy / "evaluations" / "Brain-honest"
        before = {path: path.read_bytes() for path in own.iterdir()}

        def full(path: Path, text: str, **_: object) -> int:
            path.write_bytes(text[:9].encode())
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        message = rf"^{own}/metrics\.json could not be written: No space left on device; free some"
        refused(message, "evaluate", run_copy, "--data", tiny.data)
        assert before == {path: path.read_bytes() for path in own.iterdir()}

    def test_an_out_that_cannot_be_written(self, refused, tiny, tmp_path):
        (tmp_path / "out").write_text("a file")
        message = r"^\S+out/maps/\S+\.npy could not be written: .*choose another folder"
        refused(message, "predict", tiny.folder, tiny.scan, "-o", tmp_path / "out")
        refused(r"/out/new: Not a directory; check the path", "phantom", tmp_path / "out" / "new")
        assert (tmp_path / "out").read_text() == "a file"

    def test_a_defect_of_ours_says_so(self, refused, monkeypatch):
        def broken() -> None:
            raise ZeroDivisionError("division by zero")

        monkeypatch.setattr("scanomaly.presets.presets_by_weight", broken)
        message = r"^ZeroDivisionError: division by zero \(a defect of Scanomaly: --debug"
        refused(message, "weights", "list")

    def test_debug_is_understood_before_the_verb(self, command):
        done = command("--debug", "fit", "nope", "--data", ".")
        assert done.code == 2
        assert "ConfigError" in done.err
        assert done.err.splitlines()[-1].startswith("error: no preset 'nope'")


EPOCHS = 60
"""Some seconds of training: the signal arrives long before the end."""


@dataclass(frozen=True)
class Interrupted:
    """A run whose process got SIGINT once its first epoch was finished."""

    words: list[object]
    folder: Path
    code: int
    err: str

    def moved(self, to: Path) -> tuple[Path, list[object]]:
        """A copy, and the words that resume it."""
        copy = shutil.copytree(self.folder, to)
        words = [copy if word == self.folder else word for word in self.words]
        return copy, [*words, "--resume"]


@pytest.fixture(scope="module")
def interrupted(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    out = tmp_path_factory.mktemp("interrupted") / "run"
    words = [*fit_words(tiny, out), "--set", f"fit.epochs={EPOCHS}"]
    with subprocess.Popen(
        [executable(), *map(str, words)], stderr=subprocess.PIPE, text=True, env=one_thread()
    ) as process:
        patience = time.monotonic() + 120
        last = out / "checkpoints" / "last.ckpt"
        while not last.exists() and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    return Interrupted(words, out, process.returncode, err)


@pytest.fixture
def as_one_thread() -> Iterator[None]:
    """Like the process: sums in another order would drift apart over the epochs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
class TestProcess:
    """The installed command in a process of its own: real signals, real limits."""

    def test_ctrl_c_during_fit_is_one_line(self, interrupted):
        assert interrupted.code == 2, interrupted.err
        last = interrupted.err.splitlines()[-1]
        message = rf"error: training was stopped in epoch \d+ of {EPOCHS}; .*--resume goes on\."
        assert re.fullmatch(message, last), interrupted.err
        assert "Traceback" not in interrupted.err
        assert not (interrupted.folder / "model.safetensors").exists()

    def test_resume_ends_with_the_weights_of_an_uninterrupted_run(
        self, interrupted, command, tiny, tmp_path, as_one_thread
    ):
        out, words = interrupted.moved(tmp_path / "run")
        assert "the run was not finished" in command("evaluate", out, "--data", tiny.data).error
        assert "already holds a run; add --resume" in command(*words[:-1]).error
        assert command(*words).code == 0
        run = tiny.run.with_overrides([f"fit.epochs={EPOCHS}"])
        fit(run, tiny.manifest, tmp_path / "whole")
        expected = read_state(tmp_path / "whole" / "model.safetensors")[0]
        for name, tensor in read_state(out / "model.safetensors")[0].items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6, msg=name)

    def test_a_full_disk_is_one_line_and_keeps_the_checkpoint(self, interrupted, tmp_path):
        """A limit on the size of files, between that of the logs and that of a checkpoint."""
        out, words = interrupted.moved(tmp_path / "run")
        last = out / "checkpoints" / "last.ckpt"
        before = last.read_bytes()
        assert len(before) > 2 * 64 * 1024
        limited = ["sh", "-c", 'ulimit -f 64 && exec "$@"', "sh", executable(), *map(str, words)]
        done = subprocess.run(
            limited, stderr=subprocess.PIPE, text=True, timeout=300, check=False, env=one_thread()
        )
        assert done.returncode == 2, done.stderr
        message = rf"error: {last} could not be written: File too large; .*--resume goes on\."
        assert re.fullmatch(message, done.stderr.splitlines()[-1]), done.stderr
        assert "Traceback" not in done.stderr
        assert {path.name: path.read_bytes() for path in last.parent.iterdir()} == {
            last.name: before
        }


def executable() -> str:
    found = shutil.which("scanomaly", path=sysconfig.get_path("scripts"))
    assert found, 'the command is not installed; run pip install -e ".[dev]"'
    return found


def one_thread() -> dict[str, str]:
    """Threads of tiny tensors only wait for each other."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}
