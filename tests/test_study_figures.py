"""Figures of studies and figures with images: they never crash, and look as they did.

The reference pictures in tests/reference/figures are drawn anew by `python tests/test_study_figures.py`.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slow import slow

from recondite.reports import figures, image_figures
from recondite.studies import figures as study_figures
from recondite.training.snapshots import EpochPictures

FIGURES = Path(__file__).parent / "reference" / "figures"
NAN = float("nan")
VALUES = {
    "nothing": [],
    "one": [0.3],
    "all equal": [0.2] * 9,
    "with NaN": [0.1, NAN, 0.4],
    "only NaN": [NAN],
    "many": np.random.default_rng(0).random(300),
}


def picture_of(ax, size=(180, 120)):
    stream = io.BytesIO()
    figure = ax.get_figure(root=True)
    figure.savefig(stream, format="png", dpi=50)
    return Image.open(stream).convert("RGB").resize(size, Image.Resampling.BOX)


@pytest.mark.parametrize("name", slow(VALUES, lambda name: name in ("one", "all equal")))
def test_what_is_finite_is_drawn_and_nothing_else(name):
    values = np.asarray(VALUES[name], dtype=float)
    count, finite = len(values), np.isfinite(values)
    for truth in (None, np.zeros(count, bool), np.ones(count, bool)):
        axes = study_figures.plot_instance_scores(values, truth, threshold=0.25)
        drawn = np.concatenate([np.empty((0, 2)), *(dots.get_offsets() for dots in axes.collections)])
        assert len(drawn) == count  # an unreadable image has a mark of its own
        picture_of(axes)
    mean = values.mean() if count else NAN
    axes = study_figures.plot_distribution(values, {"mean": mean, "other": 0.3})
    assert sum(bar.get_height() for bar in axes.patches) == finite.sum()
    assert len(axes.get_lines()) == 1 + np.isfinite(mean)
    picture_of(axes)
    axes = study_figures.plot_lines(values, {"a": values, "b": 1 - values}, xlabel="x", ylabel="y")
    np.testing.assert_array_equal(axes.get_lines()[1].get_ydata(), 1 - values)
    picture_of(axes)
    axes = study_figures.plot_reliability(values, values, values, values)
    np.testing.assert_array_equal(axes.get_lines()[1].get_ydata(), values)
    picture_of(axes)
    axes = study_figures.plot_against_mask_size([2, 4], np.stack([values, values], axis=1))
    assert len(axes.get_lines()) == finite.sum() + finite.any()  # one line an image, and their median
    picture_of(axes)
    for draw in (study_figures.plot_precision_recall, figures.plot_risk_coverage):
        axes = draw({"a": (values, values)})
        assert any(len(line.get_xdata()) == count for line in axes.get_lines())
        picture_of(axes)
    points = np.stack([values, values], axis=1)
    for labels in (["same"] * count, [str(index % 30) for index in range(count)]):
        axes = study_figures.plot_map(points, labels, new_points=points[:1], title="map")
        assert sum(len(dots.get_offsets()) for dots in axes.collections) == count + min(count, 1)
        picture_of(axes)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_image_has_its_cells(channels, count):
    images = np.random.default_rng(0).random((count, channels, 6, 9))
    scores = images.copy()
    if count:
        scores[0] = NAN
    for rebuilt in (None, images):
        axes = image_figures.plot_feature_scores(images, rebuilt, scores, (0, 1), threshold=0.5, names=["a"] * count)
        cells = 3 + (rebuilt is not None) + (channels if channels > 1 else 0)
        assert len(axes.get_images()) == count * cells
        picture_of(axes)
    axes = image_figures.plot_picture_rows({"one": images, "two": scores[:1]}, above=["x"], title="rows")
    assert len(axes.get_images()) == count + min(count, 1)
    picture_of(axes)
    assert not image_figures.plot_picture_rows({}).get_images()


def test_a_threshold_and_both_kinds_of_images_are_named():
    ax = study_figures.plot_instance_scores([0.1, 0.5, NAN], [False, True, False], 0.3)
    assert ax.get_legend_handles_labels()[1] == ["inlier", "outlier", "unreadable", "threshold 0.3"]
    assert [line.get_ydata()[0] for line in ax.get_lines()] == [0.3]


def test_the_median_over_images_leaves_out_those_with_nan_and_lies_inside_its_band():
    ax = study_figures.plot_against_mask_size([2, 4], [[1, 2], [3, 4], [900, 5], [NAN, 9]])
    (median,) = [line for line in ax.get_lines() if line.get_label().startswith("median of 3")]
    np.testing.assert_array_equal(median.get_ydata(), [3, 4])


def test_plots_draw_into_given_axes():
    for draw in (
        lambda ax: study_figures.plot_distribution([1, 2], {"mean": 1.5}, ax),
        lambda ax: study_figures.plot_map([[0, 1]], ["a"], ax),
        lambda ax: image_figures.plot_picture_rows({"a": np.zeros((1, 1, 4, 4))}, ax),
    ):
        ax = figures.new_axes()
        assert draw(ax) is ax


def drawn():
    """A few figures from fixed values."""
    draws = np.random.default_rng(3)
    sizes = np.arange(2, 12, 2)
    rising = draws.random((12, 1)) + np.outer(draws.random(12) + 0.5, sizes**2) / 100
    images = draws.random((2, 3, 8, 8))
    pictures = EpochPictures((images * 255).astype(np.uint8))
    for epoch in (0, 2):
        pictures.add(epoch, 0.5 + (images - 0.5) * epoch / 4)
    points = np.concatenate([draws.normal(size=(40, 2)), draws.normal(size=(40, 2)) + 6])
    return {
        "mask-size": study_figures.plot_against_mask_size(sizes, rising),
        "instance-scores": study_figures.plot_instance_scores(np.append(rising[:, 0], NAN), np.arange(13) > 8, 1.0),
        "map": study_figures.plot_map(points, ["a"] * 40 + ["b"] * 40, thumbnails={0: images[0].transpose(1, 2, 0)}),
        "feature-scores": image_figures.plot_feature_scores(images, images / 2, images**2, (0, 1), threshold=0.8),
        "epochs": image_figures.plot_epochs(pictures),
    }


@pytest.mark.parametrize("name", ["mask-size", "instance-scores", "map", "feature-scores", "epochs"])
def test_figures_look_as_they_did(name):
    expected = np.asarray(Image.open(FIGURES / f"{name}.png").convert("RGB"), dtype=float)
    found = np.asarray(picture_of(drawn()[name]), dtype=float)
    assert found.shape == expected.shape
    # Letters of another font move a few pixels; a missing line, picture or colour moves more.
    difference = np.abs(found - expected).mean(axis=2)
    assert difference.mean() < 3
    assert (difference > 60).mean() < 0.01


if __name__ == "__main__":
    for name, ax in drawn().items():
        picture_of(ax).save(FIGURES / f"{name}.png")
