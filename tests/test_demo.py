"""The demo: the whole path offline, tiny in this process and quick as users start it."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from scanomaly import demo
from scanomaly.data.phantom import STYLES, write_styles
from scanomaly.errors import ConfigError, FitError
from scanomaly.presets import preset
from tiny_clip import changed, save_clip


@pytest.fixture
def tiny_demo(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """As few patients as there may be, and the tiny run in place of the preset."""
    monkeypatch.setattr(demo, "QUICK_PATIENTS", 6)
    monkeypatch.setattr(demo, "preset", lambda name: tiny.run)


SMALL_CLIP = changed(
    embed_dim=8,
    vision_cfg={"image_size": 16, "width": 16, "layers": 12},
    text_cfg={"width": 8, "layers": 2},
)


@pytest.fixture
def tiny_clip(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random CLIP under the name of the packaged one, small images, very few patients."""
    save_clip(tmp_path / "weights" / "tiny-clip" / "phantom", SMALL_CLIP)
    monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(demo, "QUICK_PATIENTS", 6)
    small = ["config.backbone.side=16", "fit.batch_size=4", "fit.accelerator=cpu"]
    monkeypatch.setattr(demo, "preset", lambda name: preset(name).with_overrides(small))


def numbers(evaluation) -> list[object]:
    found = [*evaluation.image.values(), *evaluation.pixel.values(), evaluation.threshold]
    return [*found, *(row.score for row in evaluation.rows)]


def test_the_same_seed_gives_the_same_numbers(tiny_demo, tmp_path):
    told: list[tuple[int, int]] = []
    first, run = demo.run_demo(
        tmp_path / "a", quick=True, progress=lambda done, total: told.append((done, total))
    )
    assert run == tmp_path / "a" / "run"
    assert (run / "model.safetensors").is_file()
    assert (tmp_path / "a" / "phantom" / "Brain_MRI" / "phantom.csv").is_file()
    assert told[-1] == (len(first.rows), len(first.rows))
    assert (first.dataset, first.resampled) == ("Brain_MRI", "patients")
    assert first.notes[0].startswith("Brain MRI with lesions (simulated): the numbers compare")
    assert (first.run.fit.epochs, first.run.fit.batch_size) == (2, 16)
    assert first.splits["calibrated"].startswith("valid: ")

    again, _ = demo.run_demo(tmp_path / "b", quick=True)
    assert numbers(again) == numbers(first)
    other, _ = demo.run_demo(tmp_path / "c", quick=True, seed=1)
    assert other.run.fit.seed == 1
    assert numbers(other) != numbers(first)


def test_a_folder_that_holds_a_demo_is_refused(tiny_demo, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("years of work")
    with pytest.raises(FitError, match=rf"{tmp_path} already holds a demo; remove it or give ano"):
        demo.run_demo(tmp_path, quick=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("method", ["mvfa", "iqe"])
def test_a_few_labelled_images_teach(tiny_clip, tmp_path, method):
    folders = [tmp_path / name for name in "ab"]
    evaluations = [demo.run_demo(out, method=method, style="oct", quick=True)[0] for out in folders]
    first, again = evaluations
    assert numbers(again) == numbers(first)
    assert (first.run.preset, first.dataset) == (f"{method}-offline-few", "Retinal_OCT")
    assert first.splits["trained"].startswith("2-shot support (seed:7): 2 normal and 2 abnormal")
    assert first.notes[0].startswith("Retinal OCT with fluid (simulated): ")
    assert first.panels[0].part_maps


def test_zero_shot_learns_from_all_styles_but_the_one_shown(tiny_clip, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "STYLES", {name: STYLES[name] for name in ("oct", "chest")})
    monkeypatch.setattr(demo, "QUICK_PATIENTS", 24)  # two of a class, of whom one is held out
    monkeypatch.setattr(demo, "write_styles", partial(write_styles, slices=2))
    found, _ = demo.run_demo(tmp_path / "demo", method="mvfa-zero", style="oct", quick=True)
    assert found.dataset == "Retinal_OCT"
    assert found.run.data.target == "Retinal_OCT"
    assert "valid of Chest_Radiograph" in found.splits["trained"]
    assert "without Retinal_OCT" in found.splits["trained"]


def test_every_demo_is_of_a_preset_and_a_style_that_exist():
    for method, shown in demo.DEMOS.items():
        run = preset(shown.preset).with_overrides(shown.quick)
        assert run.preset.startswith(method.partition("-")[0])
        assert shown.style in STYLES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "patchcore"}, r"no method 'patchcore' to show; there are qfae, mvfa, iqe, "),
        ({"style": "all"}, r"no style 'all' to show; there are brain, oct, ct, tissue, chest\."),
    ],
)
def test_an_unknown_choice_names_those_there_are(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        demo.run_demo(tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_quick_demo_through_the_real_command_line(tmp_path):
    scanomaly = str(Path(sys.executable).with_name("scanomaly"))
    words = [scanomaly, "demo", "--quick", "--out", str(tmp_path / "demo")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    for step in ("1/3 simulating", "2/3 fitting qfae-offline", "3/3 evaluating"):
        assert step in done.stderr
    report = Path(done.stdout.split("report: ")[1].strip())
    text = report.read_text(encoding="utf-8")
    assert "Research software, not a medical device" in text
    assert 'src="http' not in text, "self-contained"
    metrics = json.loads((tmp_path / "demo" / "run" / "metrics.json").read_text())
    assert metrics["preset"] == "qfae-offline"
    assert metrics["image"]["auroc"]["value"] is not None
    again = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert again.returncode == 2
    assert "already holds a demo" in again.stderr
