"""PCA, a linear autoencoder and a convolutional one at equal latent size: what non-linearities are worth."""

import time
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from recondite.data.datasets import nameless, open_images
from recondite.data.sample import guess_preprocessing
from recondite.data.spool import Rows, Spool, keys_of, read_all, split
from recondite.data.units import COPIES, GroupBy, check_group_by, labels_of
from recondite.detectors import Detector, build, detector_class
from recondite.errors import InputError
from recondite.options import TrainingOptions, make_options, options_to_json
from recondite.progress import counted
from recondite.reports.figures import plot_history
from recondite.reports.image_figures import plot_picture_rows
from recondite.reports.page import TablePage
from recondite.studies.figures import plot_lines
from recondite.studies.output import write_study
from recondite.studies.unfinished import Unfinished
from recondite.torch_state import own_settings, seeded

_SHOWN = 8
_HELD_OUT = 0.2


def linear_study(
    images: object,
    output: Path,
    *,
    latent_size: int = 20,
    image_size: tuple[int, int] | None = None,
    value_range: tuple[float, float] | None = None,
    group_by: GroupBy = COPIES,
    progress: bool = False,
    **training: Any,
) -> list[dict[str, Any]]:
    """Fit PCA, a linear and a convolutional autoencoder to the same images, and measure them on others.

    Args:
        images: normal images, anything that `open_images` opens; a fifth is held out.
        output: the folder for table.csv, figures and study.html.
        latent_size: of all three.
        image_size: (height, width); the images' own size by default, if that is at most 64.
        value_range: as in `recondite.fit`.
        group_by: what tells images that belong together, which are held out or not as one; likewise.
        progress: show progress on standard error.
        training: options of `TrainingOptions` for both autoencoders.

    Returns:
        One row a method: "method", "parameters", "learnt" (mean squared error of images learnt from), "held_out" (of
        the others), "seconds".

    Raises:
        InputError: too few images, vectors, or unknown options.
    """
    check_group_by(group_by)
    options = make_options(TrainingOptions, training, "training")
    seen, source = guess_preprocessing(open_images(images, role="fit"), image_size, value_range)
    shape = seen.shape
    if len(shape) != 3:
        raise InputError("this study is of images; these are vectors")
    group_by = labels_of(source, group_by)
    spooled = read_all(source, seen, progress)
    held_out, learnt = split(keys_of([spooled], group_by)[0], [round(_HELD_OUT * len(spooled))], options.seed)
    if not len(held_out) or len(learnt) <= latent_size:
        raise InputError(f"expected more than {latent_size} images to learn and some to hold out; got {len(spooled)}")
    parts = spooled.rows(learnt), spooled.rows(held_out)
    methods: dict[str, Detector] = {}
    rows: list[dict[str, Any]] = []
    known = spooled.fingerprint(), shape, latent_size, options_to_json(options)
    unfinished = Unfinished(output, "linear", *known)
    for name in ("PCA", "linear autoencoder", "convolutional autoencoder"):
        model = _made(name, shape, latent_size, options.seed)
        started = time.monotonic()
        run = unfinished.place(name.split()[0])
        model.fit_rows(*parts, options, run, resume=True, show_progress=progress)
        seconds = sum(row.get("seconds", 0.0) for row in model.history.epochs) or time.monotonic() - started
        methods[name] = model
        errors = {where: _mean_error(model, part) for where, part in zip(("learnt", "held_out"), parts, strict=True)}
        count = sum(parameter.numel() for parameter in model.parameters()) or 2 * latent_size * prod(shape)
        rows.append({"method": name, "parameters": count, **errors, "seconds": round(seconds, 1)})
    figures = {
        "reconstructions": _pictures(methods, spooled, held_out),
        "held-out": _learning(methods, rows),
    }
    for name in list(methods)[1:]:
        history = methods[name].history
        figures[f"losses-{name.split()[0]}"] = plot_history(history.epochs, history.best_epoch)
        figures[f"losses-{name.split()[0]}"].set_title(name, fontsize=10)
    best = min(rows, key=lambda row: float(row["held_out"]))
    page = TablePage(
        title="What non-linearities are worth",
        lead=f"The same {counted(len(learnt), 'image')} learnt with {latent_size} numbers an image, measured on "
        f"{len(held_out):,} others; {' x '.join(map(str, shape))} (channels x height x width).",
        columns=["method", "weights", "error, learnt", "error, held out", "seconds"],
        rows=[
            [
                *(r["method"], f"{r['parameters']:,}"),
                *(f"{r[k]:.6f}" for k in ("learnt", "held_out")),
                str(r["seconds"]),
            ]
            for r in rows
        ],
        conclusion=f"{best['method']} rebuilds images that it has not learnt best: error {best['held_out']:.4g}.",
        best=rows.index(best),
        made=[*([("images", str(images))] if isinstance(images, str | Path) else []), ("latent", str(latent_size))],
        note="Mean squared error in [0, 1]. PCA is the best linear method there is for the images learnt: a linear "
        "autoencoder can at best reach it; what is lower owes it to non-linearities.",
    )
    write_study(output, page, rows, figures, unfinished=unfinished)
    return rows


@own_settings()
def _made(name: str, shape: tuple[int, ...], latent_size: int, seed: int) -> Detector:
    if name == "PCA":
        return build("pca", image_shape=shape, latent_size=latent_size)
    if name == "convolutional autoencoder":
        return build("autoencoder", image_shape=shape, latent_size=latent_size, seed=seed)
    with seeded(seed):
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), latent_size))
        decoder = nn.Sequential(nn.Linear(latent_size, prod(shape)), nn.Unflatten(1, shape))
    return build("autoencoder", image_shape=shape, latent_size=latent_size, encoder=encoder, decoder=decoder)


def _mean_error(model: Detector, rows: Rows) -> float:
    parts = [model.score_batch(nameless(x), "squared_error").instance_score for x in rows.batches(model.scoring_batch)]
    scale = float(model.scale) ** 2  # errors in image units, whatever the network sees
    return float(np.concatenate(parts).mean()) * scale


def _pictures(methods: dict[str, Detector], images: Spool, held_out: Any) -> Any:
    chosen = np.random.default_rng(0).permutation(held_out)[:_SHOWN]  # a source may be sorted by class
    shown = images.rows(chosen).take(slice(None))
    return plot_picture_rows({"image": shown, **{name: model.reconstruct(shown) for name, model in methods.items()}})


def _learning(methods: dict[str, Detector], rows: list[dict[str, Any]]) -> Any:
    """Draw the held-out error after each epoch beside the level of PCA."""
    lines: dict[str, Any] = {}
    for name, model in methods.items():
        if detector_class(model.name).trains_by_steps:
            scale = float(model.scale) ** 2
            lines[name] = [row["validation"] * scale for row in model.history.epochs]
    longest = max(map(len, lines.values()))
    lines = {name: [*values, *[np.nan] * (longest - len(values))] for name, values in lines.items()}
    lines = {"PCA": [rows[0]["held_out"]] * longest, **lines}
    ax = plot_lines(range(1, longest + 1), lines, xlabel="epoch", ylabel="mean squared error, held out")
    ax.set_yscale("log")
    return ax
