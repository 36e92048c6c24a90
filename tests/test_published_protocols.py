"""What published protocols do to the numbers, each beside the honest ones."""

from dataclasses import replace

import pytest
import torch

from noise_bench import Bench, Brightness, make_bench
from scanomaly.evaluation import Evaluation, evaluate, result_on_test
from scanomaly.methods.base import CHOSEN_ON_TEST, PaperProtocol


@pytest.fixture
def bench(tiny, tmp_path) -> Bench:
    return make_bench(tiny.run, tmp_path / "Brain")


def under(bench: Bench, monkeypatch, **fields) -> Evaluation:
    monkeypatch.setattr(Brightness, "paper", PaperProtocol(**fields))
    return bench.evaluate(protocol="paper")


class TestLastBatch:
    """QFAE's loader: files shuffled with the seed, the last incomplete batch dropped, and said."""

    def test_the_last_batch_is_dropped_and_said(self, bench, monkeypatch):
        honest = bench.evaluate()
        paper = under(bench, monkeypatch, last_batch_lost=10)
        assert len(paper.rows) == 20
        assert {row.id for row in paper.rows} < {row.id for row in honest.rows}
        (note,) = paper.notes
        assert note.startswith("Published protocol: test files are shuffled (seed 3, ")
        assert note.endswith("batch of 10 is dropped: 8 of 28 images are not scored.")
        assert paper.protocol == "paper"
        normal = sum(not row.label for row in paper.rows)
        assert paper.splits["scored"] == f"test: {normal} normal and {20 - normal} abnormal images"

    def test_it_scores_the_kept_images_as_usual(self, bench, monkeypatch):
        paper = under(bench, monkeypatch, last_batch_lost=10)
        kept = {row.id for row in paper.rows}
        plain = bench.evaluate(tuple(row for row in bench.manifest if row.id in kept))
        for name, estimate in plain.image.items():
            assert paper.image[name].value == pytest.approx(estimate.value)
        for name, estimate in plain.pixel.items():
            assert paper.pixel[name].value == pytest.approx(estimate.value)

    def test_the_seed_decides_which(self, bench, monkeypatch):
        paper = under(bench, monkeypatch, last_batch_lost=10)
        again = bench.evaluate(protocol="paper")
        assert [row.id for row in again.rows] == [row.id for row in paper.rows]
        run = bench.fitted.run.with_overrides(["fit.seed=4"])
        other = Bench(replace(bench.fitted, run=run), bench.manifest).evaluate(protocol="paper")
        assert {row.id for row in other.rows} != {row.id for row in paper.rows}

    def test_less_than_one_batch_is_kept(self, bench, monkeypatch):
        found = under(bench, monkeypatch, last_batch_lost=64)
        assert len(found.rows) == 28
        assert "dropped: 0 of 28 images are not scored" in found.notes[0]


class TestRangesFromTest:
    """Scores scaled by the extremes of the whole test set."""

    def test_every_map_is_scaled_by_the_test_sets_extremes_and_said(self, bench, monkeypatch):
        honest = bench.evaluate()
        paper = under(bench, monkeypatch, ranges_from_test=True)
        red = torch.cat([batch.image[:, 0] for batch in bench.fitted.batches(bench.manifest)])
        low, high = red.min().item(), red.max().item()
        assert 0 < low < high < 1
        for ours, theirs in zip(paper.rows, honest.rows, strict=True):
            assert ours.id == theirs.id
            assert ours.score == pytest.approx((theirs.score - low) / (high - low), abs=1e-5)
        assert "scaled by their extremes over the whole test set" in paper.notes[0]

    def test_the_honest_evaluation_stands_beside_it(self, bench, monkeypatch):
        before = bench.evaluate()
        paper = under(bench, monkeypatch, ranges_from_test=True)
        assert paper.honest is not None
        assert (paper.honest.protocol, paper.honest.notes) == ("honest", before.notes)
        assert paper.honest.rows == before.rows
        assert before.honest is None

    def test_the_detector_is_afterwards_as_it_was(self, bench, monkeypatch):
        before = bench.evaluate()
        under(bench, monkeypatch, ranges_from_test=True)
        assert bench.fitted.detector.range == (0.0, 1.0)
        assert bench.evaluate().rows == before.rows


class TestHonestCheckpoint:
    """Where test images chose the checkpoint, readers learn whose numbers the honest ones are."""

    def test_an_older_run_has_no_other_and_says_so(self, bench, monkeypatch):
        splits = {**bench.fitted.splits, "chose the checkpoint": CHOSEN_ON_TEST}
        older = Bench(replace(bench.fitted, splits=splits), bench.manifest)
        (note,) = under(older, monkeypatch, chosen_on_test=True).notes
        assert note.startswith("Honest numbers are of the same checkpoint, which test images chose")

    def test_notes_of_the_training_are_read_once(self, bench):
        fitted = replace(bench.fitted, notes=("Liver has no masks.",))
        assert Bench(fitted, bench.manifest).evaluate().notes == ("Liver has no masks.",)


class TestOnce:
    """How often test images are scored."""

    @pytest.fixture
    def scored(self, monkeypatch) -> list[str]:
        ids: list[str] = []
        plain = Brightness.predict

        def predict(self, batch):
            ids.extend(batch.ids)
            return plain(self, batch)

        monkeypatch.setattr(Brightness, "predict", predict)
        return ids

    def test_images_whose_scores_do_not_change_are_scored_once(self, bench, monkeypatch, scored):
        paper = under(bench, monkeypatch, last_batch_lost=10)
        shown = [panel.scored.id for panel in (*paper.honest.panels, *paper.panels)]
        assert sorted(scored) == sorted([*(row.id for row in bench.manifest), *shown])
        honest = {row.id: row for row in paper.honest.rows}
        assert [row.id for row in paper.rows] != [row.id for row in paper.honest.rows][:20]
        assert all(row == honest[row.id] for row in paper.rows)
        assert paper.seconds_per_image == paper.honest.seconds_per_image


class TestBestOnTest:
    """What is asked after every epoch of a published fit."""

    def test_it_is_the_sum_of_image_and_pixel_auroc_under_test_ranges(self, bench, monkeypatch):
        monkeypatch.setattr(Brightness, "paper", PaperProtocol(ranges_from_test=True))
        reads = []

        def read():
            reads.append(1)
            return bench.manifest

        ask = result_on_test(read)
        assert not reads
        found = [ask(bench.fitted.run, bench.fitted.detector) for _ in range(2)]
        expected = evaluate(bench.fitted, bench.manifest)
        total = expected.image["auroc"].value + expected.pixel["auroc"].value
        assert found == [pytest.approx(total)] * 2
        assert len(reads) == 1

    def test_without_masks_the_image_auroc_alone(self, bench):
        bare = replace(
            bench.manifest, rows=tuple(replace(row, mask=None) for row in bench.manifest)
        )
        found = result_on_test(lambda: bare)(bench.fitted.run, bench.fitted.detector)
        assert found == pytest.approx(evaluate(bench.fitted, bare).image["auroc"].value)
