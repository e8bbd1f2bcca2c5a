"""recondite study: studies of a fitted screen, and of linear methods."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from recondite.cli.console import print_table
from recondite.cli.flags import (
    GROUP_BY_HELP,
    VALUE_RANGE_HELP,
    ScreenFolder,
    alone,
    check_flags_count,
    load_screen,
    names_of,
    numbers_of,
    value_range_of,
)
from recondite.errors import InputError
from recondite.progress import counted

if TYPE_CHECKING:
    from recondite.screen.screen import Screen

_SOURCE = "folder, file, glob, .npy, .npz, manifest (.jsonl), table of paths (.csv, .tsv) or data set."

Images = Annotated[str, Parameter(help=f"Normal images: {_SOURCE}")]
Output = Annotated[Path, Parameter(alias="-o", help="Folder for table.csv, figures and study.html.")]
Count = Annotated[int, Parameter(help="Greatest number of images.")]
Score = Annotated[str, Parameter(help="Score to judge by: error, evidence, auto or a statistic.")]
Seed = Annotated[int, Parameter(help="Random seed of all draws.")]
Sizes = Annotated[
    str | None,
    Parameter(
        help="Sides of the masks in pixels, joined by commas; by default 2, 4, ..., 20 (of microscope 4, 8, 12, 16), "
        "those of them that fit into the images."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What the studies under masks share; `recondite.perturbations.masked` makes them."""

    masks: Annotated[int, Parameter(help="Masked copies of each image for each size.")] = 20
    kind: Annotated[
        Literal["normal", "uniform", "zero", "constant", "patch"], Parameter(help="What the masks hold.")
    ] = "normal"
    add: Annotated[bool, Parameter(negative="", help="Add noise to the pixels instead of replacing them.")] = False
    seed: Seed = 0


Masked = Annotated[Masks, Parameter(name="*")]
_MASKS = Masks()


def add_studies(studies: App) -> None:
    """Add the commands of this file to the command `study`."""
    of_screens = (
        mask_size,
        severity,
        top_percent,
        microscope,
        defects,
        interpolation,
        denoising,
        latent_map,
        thresholds,
    )
    for command in (*of_screens, linear):
        studies.command(alone(command))


def mask_size(
    screen: ScreenFolder,
    images: Images,
    /,
    *,
    output: Output,
    sizes: Sizes = None,
    count: Count = 50,
    score: Score = "error",
    masks: Masked = _MASKS,
) -> None:
    """Measure the score of a screen against the size of a mask."""
    chosen = {"sizes": _sizes_of(sizes), "count": count, "score": score, **asdict(masks)}
    judge = _load(screen, output, images)
    from recondite.studies.masks import mask_size_study

    rows = mask_size_study(judge, images, output, progress=True, **chosen)
    _print(rows, "score against mask size", output)


def severity(
    screen: ScreenFolder,
    images: Images,
    /,
    *,
    output: Output,
    corruptions: Annotated[
        str | None, Parameter(help="Such as gaussian-blur,jpeg, joined by commas; all by default.")
    ] = None,
    count: Count = 200,
    score: Score = "error",
    seed: Seed = 0,
) -> None:
    """Measure the score of a screen against corruptions at five severities."""
    judge = _load(screen, output, images)
    from recondite.studies.severity import severity_study

    rows = severity_study(
        judge,
        images,
        output,
        corruptions=names_of(corruptions),
        count=count,
        score=score,
        seed=seed,
        progress=True,
    )
    _print([row for row in rows if row["severity"] in (1, 5)], "score against corruption, severities 1 and 5", output)


def top_percent(
    screen: ScreenFolder,
    images: Images,
    /,
    *,
    output: Output,
    sizes: Sizes = None,
    shares: Annotated[
        str, Parameter(help="Per cent of the worst values that a score is the mean of, joined by commas.")
    ] = "20,40,60,80,100",
    count: Count = 50,
    masks: Masked = _MASKS,
) -> None:
    """Measure the mean of only the worst per cent of feature scores against the size of a mask."""
    chosen = {
        "sizes": _sizes_of(sizes),
        "shares": numbers_of("--shares", shares, float),
        **asdict(masks),
    }
    judge = _load(screen, output, images)
    from recondite.studies.masks import feature_share_study

    rows = feature_share_study(judge, images, output, count=count, progress=True, **chosen)
    _print(rows, "mean score of the worst values", output)


def microscope(
    screen: ScreenFolder,
    image: Annotated[str, Parameter(help="An image; of a folder or data set, one is chosen at random.")],
    /,
    *,
    output: Output,
    sizes: Sizes = None,
    masks: Masked = _MASKS,
) -> None:
    """Look at one image under masks: what is rebuilt and how each channel scores."""
    chosen = {"sizes": _sizes_of(sizes), **asdict(masks)}
    judge = _load(screen, output, image)
    from recondite.studies.masks import microscope_study

    rows = microscope_study(judge, image, output, progress=True, **chosen)
    _print(rows, "one image", output)


def defects(screen: ScreenFolder, images: Images, /, *, output: Output, count: Count = 200, seed: Seed = 0) -> None:
    """Measure how well small made-up defects are detected and localised."""
    judge = _load(screen, output, images)
    from recondite.studies.severity import defects_study

    rows = defects_study(judge, images, output, count=count, seed=seed, progress=True)
    _print(rows, "small defects", output)


def interpolation(
    screen: ScreenFolder,
    images: Annotated[str, Parameter(help="Folder, glob, .npy, .npz or data set with the two images.")],
    /,
    *,
    output: Output,
    first: Annotated[str | None, Parameter(help="Id of the first image; at random by default.")] = None,
    second: Annotated[str | None, Parameter(help="Id of the second; by default one with another label.")] = None,
    steps: Annotated[int, Parameter(help="Images to decode.")] = 10,
    seed: Seed = 0,
) -> None:
    """Walk from one image to another through the latent space."""
    judge = _load(screen, output, images)
    from recondite.studies.latent import interpolation_study

    rows = interpolation_study(judge, images, output, first=first, second=second, steps=steps, seed=seed)
    _print(rows, "between two images", output)


def denoising(
    screen: ScreenFolder,
    images: Images,
    /,
    *,
    output: Output,
    levels: Annotated[
        str, Parameter(help="Standard deviations of the noise, joined by commas.")
    ] = "0.05,0.1,0.2,0.3,0.4,0.5",
    count: Count = 200,
    seed: Seed = 0,
) -> None:
    """Add Gaussian noise to images, rebuild them, and measure error, PSNR and SSIM before and after."""
    noise = numbers_of("--levels", levels, float)
    judge = _load(screen, output, images)
    from recondite.studies.latent import denoising_study

    rows = denoising_study(judge, images, output, levels=noise, count=count, seed=seed, progress=True)
    _print(rows, "out of noise", output)


def latent_map(
    screen: ScreenFolder,
    images: Images,
    /,
    *,
    output: Output,
    into: Annotated[
        Path | None,
        Parameter(help="Draw no new map: place the images into this one, the folder map of an earlier run."),
    ] = None,
    count: Count = 10_000,
    new: Annotated[str | None, Parameter(help="Further images, placed into the finished map.")] = None,
    new_count: Annotated[int, Parameter(help="With --new: greatest number of these.")] = 500,
    thumbnails: Annotated[bool, Parameter(help="Draw some images at their places.")] = True,
    seed: Seed = 0,
) -> None:
    """Draw the latents of images as a map (t-SNE), coloured by label, and keep it for images to come."""
    if into is not None and new is not None:
        raise InputError("expected --new or --into, not both: with --into, IMAGES are the new ones")
    without = "without further images: give --new too"
    check_flags_count(new is not None, without, latent_map.__kwdefaults__, new_count=new_count)
    chosen: dict[str, Any] = {"count": count, "thumbnails": thumbnails, "seed": seed, "progress": True}
    judge = _load(screen, output, images)
    from recondite.studies.latent_map import latent_map_study, placing_study

    if into is None:
        rows = latent_map_study(judge, images, output, new=new, new_count=new_count, **chosen)
        print(f"map:   {output / 'map'}")
    else:
        rows = placing_study(judge, images, output, into=into, **chosen)
    print(f"{counted(len(rows), 'image')}\ntable: {output / 'table.csv'}\npage:  {output / 'study.html'}")


def thresholds(
    screen: ScreenFolder,
    images: Annotated[str, Parameter(help=f"Normal images that it has not seen: {_SOURCE}")],
    /,
    *,
    output: Output,
    outliers: Annotated[str | None, Parameter(help="Images that do not belong.")] = None,
    score: Score = "error",
    threshold: Annotated[float | None, Parameter(help="One chosen by hand, such as 0.045, beside the others.")] = None,
) -> None:
    """Compare threshold rules on fresh images, and draw the losses with all of them."""
    chosen: dict[str, Any] = {"outliers": outliers, "score": score, "threshold": threshold}
    judge = _load(screen, output, images)
    from recondite.studies.thresholds import thresholds_study

    rows = thresholds_study(judge, images, output, progress=True, **chosen)
    _print(rows, "threshold rules", output)


def linear(
    images: Annotated[str, Parameter(help=f"Normal images, a fifth is held out: {_SOURCE}")],
    /,
    *,
    output: Output,
    latent_size: Annotated[int, Parameter(help="Latent size of all three.")] = 20,
    value_range: Annotated[str | None, Parameter(help=VALUE_RANGE_HELP)] = None,
    group_by: Annotated[str, Parameter(help=GROUP_BY_HELP)] = "copies",
    epochs: Annotated[int, Parameter(help="Epochs of both autoencoders.")] = 20,
    batch_size: Annotated[int, Parameter(help="Batch size of both autoencoders.")] = 128,
    learning_rate: Annotated[float, Parameter(help="Learning rate of both autoencoders.")] = 2e-3,
    seed: Seed = 0,
) -> None:
    """Compare PCA, a linear autoencoder and a convolutional one at equal latent size."""
    _check(output, images)
    from recondite.studies.linear import linear_study

    training: dict[str, Any] = {
        "group_by": group_by,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    values = value_range_of(value_range)
    rows = linear_study(images, output, latent_size=latent_size, value_range=values, progress=True, **training)
    _print(rows, "linear and not", output)


def _load(name: str, output: Path, images: str) -> "Screen":
    """Check the output of a study of a screen, and load the screen."""
    _check(output, images)
    return load_screen(name, None, None, "cpu", others=[images])


def _check(output: Path, images: str) -> None:
    from recondite.data.datasets import check_source
    from recondite.data.outputs import check_outputs

    check_outputs({}, {"-o": output}, images=images)
    check_source(images)


def _sizes_of(text: str | None) -> list[int] | None:
    """Return sides of masks, as the user gave them."""
    return None if text is None else numbers_of("--sizes", text, int)


def _print(rows: Sequence[Mapping[str, Any]], title: str, output: Path) -> None:
    cells = [
        tuple(f"{v:.5g}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values()) for row in rows
    ]
    print_table([tuple(name.replace("_", " ") for name in rows[0]), *cells], title=title, header=True)
    print(f"\ntable: {output / 'table.csv'}\npage:  {output / 'study.html'}")
