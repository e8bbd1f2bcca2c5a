import io

import matplotlib.image
import numpy as np
import pytest
from matplotlib import colormaps
from scipy.ndimage import label
from slow import slow

from recondite.data.pictures import HEAT_MAP, drawn, figure_of, heat_colours, svg
from recondite.data.regions import border
from recondite.reports import figures


def pixels_of(axes):
    stream = io.BytesIO()
    axes.get_figure(root=True).savefig(stream, format="png", dpi=60)
    stream.seek(0)
    return matplotlib.image.imread(stream)[..., :3]


AWKWARD = {
    "nothing": [],
    "one": [0.3],
    "all equal": [0.2] * 9,
    "with NaN": [0.1, float("nan"), 0.4],
    "only NaN": [float("nan")],
    "zero and below": [0.0, -1.0, 3.0],
    "many": np.random.default_rng(0).random(500),
}


@pytest.mark.parametrize("name", slow(AWKWARD, lambda name: name in ("one", "all equal")))
def test_bars_and_lines_hold_the_finite_values_and_no_others(name):
    values = AWKWARD[name]
    finite = np.asarray(values, dtype=float)[np.isfinite(values)]
    scores = figures.plot_scores({"a": values, "b": [0.1, 0.2]}, threshold=0.15)
    # The bars of a name are shares of its images: they add up to one.
    assert sum(bar.get_height() for bar in scores.patches) == pytest.approx(1 + (len(finite) > 0))
    assert scores.get_legend_handles_labels()[1][-1] == "threshold 0.15"
    alone = figures.plot_scores({"a": values}, threshold=float("nan"))
    assert alone.get_legend_handles_labels()[1] == ([f"a ({len(finite):,})"] if len(finite) else [])
    p_values = figures.plot_p_values(np.clip(values, 0, 1), alpha=0.05)
    assert sum(bar.get_height() for bar in p_values.patches) == pytest.approx(float(len(finite) > 0))
    calibration = figures.plot_calibration(values, values, values, values, alpha=0.05)
    np.testing.assert_array_equal(calibration.get_lines()[0].get_ydata(), values)
    for axes in (scores, alone, p_values, calibration):
        assert (pixels_of(axes) < 0.5).any()


def test_histories_of_any_length_show_every_epoch():
    row = {"epoch": 1, "seconds": 0.1, "loss_all": 0.5, "validation": None}
    for epochs in ([], [row], [row, {**row, "epoch": 2, "validation": -3.0}]):
        axes = figures.plot_history(epochs, best_epoch=len(epochs))
        lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
        assert lines.get("training loss (all)", []) == [0.5] * len(epochs)
        assert lines.get("validation error", []) == ([-3.0] if len(epochs) == 2 else [])
        assert (f"kept: epoch {len(epochs)}" in lines) == bool(epochs)
        # A logarithm has no place for the error below zero.
        assert axes.get_yscale() == ("log" if len(epochs) == 1 else "linear")
        pixels_of(axes)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_number_of_channels(channels):
    image = np.random.default_rng(0).random((channels, 9, 14))
    image[0, 0, 0] = np.nan
    pixels_of(figures.plot_image(image, title="image"))
    pixels_of(figures.plot_heat_map(image, scale=(0.0, 0.5)))
    figure = figures.plot_comparison(image, image, image, (0.0, 0.5), "a verdict of a$b^$.png")
    assert len(figure.axes) == 4
    figure = figures.plot_comparison(image, image, image, (0.0, 0.5), "a verdict", threshold=0.4)
    assert figure.axes[3].get_title() == "above 0.4"


def test_an_overlay_marks_the_pixels_above_the_threshold_and_no_others():
    scores = np.zeros((2, 4, 5))
    scores[1, 2, 3] = 0.5
    scores[0, 1, 1] = np.nan
    ax = figures.plot_overlay(np.full((2, 4, 5), 0.6), scores, 0.4)
    (drawn,) = ax.get_images()
    coloured = np.ptp(np.asarray(drawn.get_array()), axis=2) > 0.01
    assert np.argwhere(coloured).tolist() == [[2, 3]]


WITH_A_ZONE = np.zeros((632, 250), dtype=bool)
WITH_A_ZONE[20:612, 20:230] = True
WITH_A_ZONE[100:202, 101:151] = False


def apart(alike):
    """How many areas there are of pixels that are alike."""
    return label(alike)[1]


@pytest.mark.parametrize("factor", [1, 3, 5])
def test_an_outline_is_whole_in_a_heat_map_that_is_reduced(factor):
    heat = heat_colours(np.zeros((1, 632, 250)), (0, 1), WITH_A_ZONE)
    for down, across in np.ndindex(factor, factor):  # as browsers do it: one pixel of so many
        seen = heat[down::factor, across::factor]
        assert apart((seen == heat[0, 0]).all(axis=2)) == 3  # beside the region, in it, and the zone


@pytest.mark.parametrize("inches", [1.5, 2.5, 5.0])
def test_an_outline_is_whole_in_a_figure_of_any_size(inches):
    areas = []
    for inside in (None, WITH_A_ZONE):
        axes = figures.plot_heat_map(np.zeros((1, 632, 250)), (0, 1), figures.new_axes(inches, inches), inside=inside)
        areas.append(apart(np.isclose(pixels_of(axes), colormaps[HEAT_MAP](0.0)[:3], atol=1 / 255).all(axis=2)))
    assert areas[1] == areas[0] + 2


def test_a_small_heat_map_has_an_outline_of_one_pixel():
    inside = np.zeros((28, 28), dtype=bool)
    inside[5:20, 6:22] = True
    heat = heat_colours(np.zeros((1, 28, 28)), (0, 1), inside)
    np.testing.assert_array_equal((heat != heat[0, 0]).any(axis=2), border(inside))


def test_heat_is_shared_and_rises_with_the_score():
    low, high = np.full((3, 4, 4), 0.1), np.full((3, 4, 4), 0.9)
    brightness = [heat_colours(value, scale=(-1.0, 1.0)).sum() for value in (low, high)]
    assert brightness[0] < brightness[1]
    np.testing.assert_array_equal(heat_colours(high * 5, (0, 1)), heat_colours(high * 50, (0, 1)))


@pytest.mark.parametrize("scale", [(0.0, 2.0), (-4.0, 3.0), (-4.0, -1.5)])
def test_heat_runs_from_the_low_to_the_high_end_of_its_scale(scale):
    ends = [heat_colours(np.full((1, 1, 1), end), scale)[0, 0].tolist() for end in scale]
    first, last = colormaps[HEAT_MAP]([0.0, 1.0])[:, :3]
    assert ends == [(first * 255).round().tolist(), (last * 255).round().tolist()]


def test_a_threshold_is_drawn_where_it_is():
    axes = figures.plot_scores({"a": np.linspace(1, 100, 50)}, threshold=40.0)
    lines = [line.get_xdata()[0] for line in axes.get_lines()]
    assert lines == [40.0]
    assert "threshold 40" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_plots_draw_into_given_axes():
    axes = figures.new_axes()
    assert figures.plot_scores({"a": [1.0, 2.0]}, ax=axes) is axes
    assert axes.patches


def test_a_table_of_aurocs_has_a_number_in_each_cell_and_turns_colour_at_one_half():
    axes = figures.plot_aurocs([[0.0, 0.504], [1.0, np.nan]], ["one", "two"], ["a", "b"], lines_above=[1])
    assert [text.get_text() for text in axes.texts] == [".00", ".50", "1.00"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    (image,) = axes.get_images()
    low, middle, high = (np.array(image.cmap(image.norm(value))[:3]) for value in (0.0, 0.5, 1.0))
    assert low[0] > low[2]  # red
    assert high[2] > high[0]  # blue
    assert middle.min() > 0.95  # white
    pixels_of(axes)


def test_a_history_of_many_losses_shows_the_validation_error_too():
    names = [f"loss_{letter}" for letter in "abcdefg"]
    rows = [{"epoch": epoch, **dict.fromkeys(names, 1.0 / epoch), "validation": 20.0 / epoch} for epoch in (1, 2)]
    labels = figures.plot_history(rows, best_epoch=2).get_legend_handles_labels()[1]
    assert "validation error" in labels
    assert len(labels) == 9


def test_roc_curves_and_latent_sizes_are_drawn_with_their_names():
    ax = figures.plot_roc({"a": ([0, 0.5, 1], [0, 0.9, 1]), "b": ([0, 1], [0, 1])}, title="two")
    assert ax.get_legend_handles_labels()[1] == ["a", "b"]
    lines = {"l2": [0.6, 0.7], "fm": [0.5, 0.6]}
    ax = figures.plot_against_size([100, 300], lines, "AUROC", intervals={"l2": [(0.5, 0.7), (0.6, 0.8)]})
    assert ax.get_legend_handles_labels()[1] == ["l2", "fm"]
    assert pixels_of(ax).std() > 0


def test_scores_that_spread_far_to_both_sides_of_zero_are_told_apart():
    """Evidence scores lie around 0 for normal images and in the thousands for others."""
    normal = np.random.default_rng(0).normal(0.5, 0.7, 500)
    axes = figures.plot_scores({"normal": normal, "foreign": [-1.0, 900.0, 2500.0]}, threshold=2.5)
    heights = [patch.get_height() for patch in axes.patches if 0 < patch.get_height() < 0.5]
    assert len(heights) > 5  # not all normal images in one bar
    assert axes.get_xscale() == "asinh"


def test_a_figure_is_drawn_once_as_matplotlib_draws_it_and_is_the_same_file_each_time():
    def histogram(draws):
        ax = figures.plot_scores({"normal": [0.1, 0.2, 0.4], "new": [0.3, 0.9]}, 0.5)
        draw = ax.draw
        ax.draw = lambda renderer: draws.append(draw(renderer))
        return ax

    def read(content):
        return matplotlib.image.imread(io.BytesIO(content))

    draws, theirs = [], io.BytesIO()
    figure_of(histogram([])).savefig(theirs, format="png", dpi=100)
    ours = figure_of(histogram(draws))
    for _ in range(2):
        np.testing.assert_array_equal(read(drawn(ours, "png", dpi=100)), read(theirs.getvalue()))
    assert len(draws) == 2
    assert svg(histogram(draws)) == svg(histogram(draws))
    assert len(draws) == 4
