"""What panels keep of branches and levels: few images, one scale for each map."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from noise_bench import SIDE, Bench, Brightness, make_bench
from scanomaly.evaluation import Evaluation
from scanomaly.inference import FittedDetector
from scanomaly.panels import PART_RANGE_QUANTILES
from scanomaly.records import Batch, Prediction
from tiny_runs import TinyRun


class Branched(Brightness):
    """Parts: the map itself, its negative on a coarser grid, and the mean score."""

    def predict(self, batch: Batch) -> Prediction:
        plain = super().predict(batch)
        coarse = -torch.nn.functional.avg_pool2d(plain.anomaly_map, 2)
        parts = {"red_map": plain.anomaly_map, "dark_map": coarse, "red_score": plain.score}
        return replace(plain, parts=parts)


@pytest.fixture(scope="module")
def bench(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    plain = make_bench(tiny.run, tmp_path_factory.mktemp("noise") / "Brain")
    return replace(plain, fitted=replace(plain.fitted, detector=Branched()))


@pytest.fixture(scope="module")
def found(bench: Bench) -> Evaluation:
    return bench.evaluate()


def test_every_panel_has_the_methods_maps_and_scores(found):
    for panel in found.panels:
        assert panel.part_maps.keys() == {"red_map", "dark_map"}
        assert panel.part_scores == {"red_score": pytest.approx(panel.scored.score)}
        for name, part in panel.part_maps.items():
            assert part.shape == (SIDE, SIDE), "a coarse map is brought to the method's side"
            assert panel.part_map(name).shape == panel.image.shape[:2]


def test_each_map_has_one_scale_over_all_panels(bench, found):
    """0: what the normal images shown mostly stay below; 1: the highest of all shown."""
    rows = {row.id: row for row in bench.manifest}
    shown = replace(bench.manifest, rows=tuple(rows[p.scored.id] for p in found.panels))
    maps = [one.anomaly_map for one in bench.fitted.score_rows(shown)]
    calm = [m for m, row in zip(maps, shown, strict=True) if not row.label]
    low = np.median([np.quantile(m, PART_RANGE_QUANTILES[0]) for m in calm])
    high = max(np.quantile(m, PART_RANGE_QUANTILES[1]) for m in maps)
    assert low < high
    for panel, raw in zip(found.panels, maps, strict=True):
        assert panel.part_maps["red_map"] == pytest.approx((raw - low) / (high - low), abs=1e-5)


def test_a_map_that_is_the_same_everywhere_is_shown_as_nothing(bench, monkeypatch):
    def constant(self, batch: Batch) -> Prediction:
        plain = Brightness.predict(self, batch)
        return replace(plain, parts={"red_map": torch.full_like(plain.anomaly_map, 0.25)})

    monkeypatch.setattr(Branched, "predict", constant)
    for panel in bench.evaluate().panels:
        assert panel.part_maps["red_map"].max() == 0


def test_parts_of_the_other_test_images_are_not_kept(bench, found, monkeypatch):
    """Only the few images of panels are asked for theirs."""
    asked = []
    plain = FittedDetector.score_rows

    def spy(self, manifest, *, with_parts=False, **options):
        asked.append((len(manifest), with_parts))
        return plain(self, manifest, with_parts=with_parts, **options)

    monkeypatch.setattr(FittedDetector, "score_rows", spy)
    bench.evaluate()
    assert asked == [(28, False), (len(found.panels), True)]
    assert all(one.part_maps == {} for one in bench.fitted.score_rows(bench.manifest))
