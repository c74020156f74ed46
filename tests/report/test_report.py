import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax import ending
from mmjax.evals.seen import Pairs
from mmjax.report import content
from mmjax.report.__main__ import main
from mmjax.report.gallery import cross_section, load_gallery, make_gallery, save_gallery
from mmjax.report.page import write_report
from mmjax.report.plots import smoothed
from mmjax.report.run import read_run
from mmjax.report.wording import ordinal, percent

CONFIG = {
    "data": {"source": "emoji", "batch_size": 256},
    "train": {"num_steps": 40, "seed": 0},
    "model": {"image": {"image_size": 64}},
}


def write_run(workdir: Path, num_steps: int = 40) -> None:
    """A synthetic run with what a real one logs; one loss is not finite and two splits are evaluated twice."""
    lines = [
        {"step": step, "loss": None if step == 7 else 8 / step, "learning_rate": 1e-3, "examples_per_sec": 900.0 + step}
        | {"step_secs": 0.25, "data_wait_share": 0.02, "mfu": 0.4}
        for step in range(1, num_steps + 1)
    ]
    evals = [{"step": step, "unseen_style": results(step / 100), "other": results(0.2)} for step in (20, 40)]
    for name, rows in (("metrics.jsonl", lines), ("evals.jsonl", evals)):
        (workdir / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workdir / "config.json").write_text(json.dumps(CONFIG))


def results(recall: float) -> dict[str, object]:
    recalls = {"r@1": recall, "r@5": recall, "r@10": 2 * recall}
    return {
        "retrieval": {"image_to_text": recalls, "text_to_image": recalls, "num_candidates": 1650, "num_images": 1650},
        "zero_shot": {"top1": 0.3, "top5": 0.6, "mean_per_class": 0.25, "num_classes": 98, "num_images": 1650},
    }


def pairs_of(count: int, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(count, 8))
    image = text + rng.normal(size=(count, 8))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    captions = tuple(f"caption $<{index}>$" for index in range(count))
    return Pairs(image, text, captions, np.arange(count), np.stack([np.arange(count)] * 2, axis=1), None)


def one_colour(row: int) -> np.ndarray:
    return np.full((8, 8, 3), row, np.uint8)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first light"
    folder.mkdir()
    write_run(folder)
    save_gallery(folder, make_gallery(pairs_of(30), one_colour, num_examples=3))
    write_report(folder)
    return folder


def test_the_pictures_are_pngs_in_the_workdir(workdir: Path) -> None:
    for name in ("loss", "learning_rate", "throughput", "recall", "gallery"):
        with Image.open(workdir / f"{name}.png") as picture:
            assert picture.format == "PNG"
            assert picture.width > 1000


def test_the_page_needs_no_other_file_and_says_what_was_reached(workdir: Path) -> None:
    page = (workdir / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,22})', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "Trained for 40 steps on emoji in 0 min 10 s. On unseen_style, 40.0% of the images" in page
    assert "1,650" in page
    assert "Input keeps up: the step waited 2% of the time for data." in page
    assert f"python -m mmjax.evaluate --workdir &#39;{workdir}&#39; --data imagefolder:DIR" in page


def test_what_a_fusion_model_reaches_is_shown(tmp_path: Path) -> None:
    """The order of its fusion is the headline; of five candidates there is no recall at 10."""
    write_run(tmp_path)
    better = {"r@1": 0.437, "r@5": 0.553}
    fused = {
        "reranked": {"image_to_text": better, "text_to_image": better, "num_candidates": 5, "match_accuracy": 0.612},
        "masked_words": {"with_image": 0.311, "other_image": 0.222, "without_image": 0.266},
    }
    row = {"step": 40, "unseen_style": results(0.4) | fused, "other": results(0.2)}
    (tmp_path / "evals.jsonl").write_text(json.dumps(row) + "\n")
    run = read_run(tmp_path)
    assert [row.split for row in content.rows(run)] == ["unseen_style", "unseen_style, reranked", "other"]
    assert content.rows(run)[1].cells == ("5 nearest", "", "43.7", "55.3", "", "43.7", "55.3", "", "", "", "")
    assert "On unseen_style, 43.7% of the images find their caption at once among 1,650 captions" in content.summary(
        run
    )
    assert [tile.value for tile in content.tiles(run)[:2]] == ["43.7%", "43.7%"]
    page = write_report(tmp_path).read_text()
    assert "unseen_style: match of right pairs and nearest wrong ones 61.2% (chance 50%); masked words right" in page
    assert "31.1% with the image, 22.2% with another one, 26.6% with none." in page


def test_what_a_model_without_a_common_space_chose_is_shown(tmp_path: Path) -> None:
    """A recall among 16 is told as such, and never beside one among all."""
    write_run(tmp_path)
    chosen = {"r@1": 0.51, "r@5": 0.82, "r@10": 0.93}
    found = {"image_to_text": chosen, "text_to_image": chosen, "num_candidates": 16, "match_accuracy": 0.702}
    lines = [{"step": step, "unseen_style": {"choice": found}} for step in (20, 40)]
    (tmp_path / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(tmp_path)
    (row,) = content.rows(run)
    assert row.split == "unseen_style, chosen"
    assert row.cells == ("16", "6.2%", "51.0", "82.0", "93.0", "51.0", "82.0", "93.0")
    page = write_report(tmp_path).read_text()
    assert "On unseen_style, 51.0% of the images find their caption at once among 16 captions" in page
    assert "unseen_style: match of right pairs and others 70.2% (chance 50%)." in page
    assert (tmp_path / "recall.png").exists()


def test_captions_are_escaped(workdir: Path) -> None:
    page = (workdir / "report.html").read_text()
    assert "caption $&lt;" in page
    assert "caption $<" not in page


def test_a_run_without_evaluations_and_rates_still_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    page = write_report(tmp_path).read_text()
    assert "It has not been evaluated yet." in page
    assert "<table>" not in page
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["loss.png"]


def test_the_command_reports_a_missing_run_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending.status(main, ["--workdir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert ending.status(main, ["--workdir", str(tmp_path)]) == 2
    assert "holds no step" in capsys.readouterr().err


def test_what_was_not_finite_is_nan_again(workdir: Path) -> None:
    loss = read_run(workdir).metrics["loss"]
    assert np.flatnonzero(np.isnan(loss)).tolist() == [6]


def test_the_gallery_shows_what_the_scores_count(tmp_path: Path) -> None:
    pairs = pairs_of(30)
    gallery = make_gallery(pairs, one_colour, num_examples=4)
    similarity = pairs.text_embeds @ pairs.image_embeds.T
    for row, caption in enumerate(gallery.captions):
        query = pairs.captions.index(str(caption))
        nearest = np.argsort(-similarity[query])[:5]
        assert gallery.images_found[row, :, 0, 0, 0].tolist() == nearest.tolist()
        assert gallery.found_is_right[row].tolist() == (nearest == query).tolist()
        assert (gallery.caption_ranks[row] < 5) == gallery.found_is_right[row].any()
    save_gallery(tmp_path, gallery)
    loaded = load_gallery(tmp_path)
    assert loaded is not None
    for name, array in gallery._asdict().items():
        np.testing.assert_array_equal(getattr(loaded, name), array)


def test_fewer_candidates_than_answers_are_all_shown(tmp_path: Path) -> None:
    gallery = make_gallery(pairs_of(3), one_colour)
    assert gallery.captions_found.shape == (3, 3)
    write_run(tmp_path)
    save_gallery(tmp_path, gallery)
    assert write_report(tmp_path).exists()


def test_a_cross_section_has_failures_in_their_share() -> None:
    ranks = np.array([0] * 50 + list(range(1, 51)))
    chosen = ranks[cross_section(ranks, 8)]
    assert (chosen == 0).sum() == 4
    assert (np.diff(chosen) >= 0).all()
    np.testing.assert_array_equal(cross_section(ranks, 8), cross_section(ranks, 8))


def test_smoothing_leaves_out_what_is_not_finite_and_keeps_the_length() -> None:
    np.testing.assert_allclose(smoothed(np.array([1.0, np.nan, 3.0, 5.0]), 3), [1.0, 2.0, 4.0, 4.0])
    assert len(smoothed(np.ones(3), 10)) == 3


def test_figures_in_words() -> None:
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 21, 112, 1652)] == [
        "1st", "2nd", "3rd", "4th", "11th", "21st", "112th", "1,652nd",
    ]  # fmt: skip
    assert (percent(0.0006), percent(0.413)) == ("0.06%", "41.3%")
