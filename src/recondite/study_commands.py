"""`recondite study ...`: parse, make one call, print; the studies of a finished screen, and of linear methods."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from recondite.console import print_table
from recondite.errors import InputError

if TYPE_CHECKING:
    from recondite.screen import Screen

Output = Annotated[Path, Parameter(alias="-o")]
Kind = Literal["normal", "uniform", "zero", "constant", "patch"]
Flag = Parameter(negative="")
_SIZES = "2,4,6,8,10,12,14,16,18,20"


def add_studies(studies: App) -> None:
    """Add the commands of this file to the command `study`."""
    for command in (
        *(mask_size, severity, features, microscope, defects),
        *(interpolation, denoising, latent_map, thresholds, linear),
    ):
        studies.command(command)


def mask_size(
    screen: Path,
    images: str,
    /,
    *,
    output: Output,
    sizes: str = _SIZES,
    masks: int = 20,
    count: int = 50,
    kind: Kind = "normal",
    add: Annotated[bool, Flag] = False,
    score: str = "error",
    seed: int = 0,
) -> None:
    """Measure the score of a screen against the size of a mask.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    images
        Normal images: folder, file, glob, .npy, .npz or data set.
    output
        Folder for table.csv, images.csv, figures and study.html.
    sizes
        Sides of the masks in pixels, joined by commas.
    masks
        Masked copies of each image for each size.
    count
        Images, at most.
    kind
        What the masks hold.
    add
        Add noise to the pixels instead of replacing them.
    score
        error, evidence, auto or a statistic.
    seed
        Of all draws.
    """
    from recondite.studies.masks import mask_size_study

    rows = mask_size_study(
        _load(screen),
        images,
        output,
        sizes=_numbers("--sizes", sizes, int),
        masks=masks,
        count=count,
        kind=kind,
        add=add,
        score=score,
        seed=seed,
        progress=True,
    )
    _print(rows, "score against mask size", output)


def severity(
    screen: Path,
    images: str,
    /,
    *,
    output: Output,
    corruptions: str | None = None,
    count: int = 200,
    score: str = "error",
    seed: int = 0,
) -> None:
    """Measure the score of a screen against corruptions at five severities.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    images
        Normal images: folder, file, glob, .npy, .npz or data set.
    output
        Folder for table.csv, figures and study.html.
    corruptions
        Such as gaussian-blur,jpeg; all by default.
    count
        Images, at most.
    score
        error, evidence, auto or a statistic.
    seed
        Of all draws.
    """
    from recondite.studies.severity import severity_study

    names = None if corruptions is None else corruptions.split(",")
    rows = severity_study(
        _load(screen), images, output, corruptions=names, count=count, score=score, seed=seed, progress=True
    )
    _print([row for row in rows if row["severity"] in (1, 5)], "score against corruption, severities 1 and 5", output)


def features(
    screen: Path,
    images: str,
    /,
    *,
    output: Output,
    sizes: str = _SIZES,
    shares: str = "20,40,60,80,100",
    masks: int = 20,
    count: int = 50,
    kind: Kind = "normal",
    add: Annotated[bool, Flag] = False,
    seed: int = 0,
) -> None:
    """Measure scores of only the worst values against the size of a mask.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    images
        Normal images: folder, file, glob, .npy, .npz or data set.
    output
        Folder for table.csv, figures and study.html.
    sizes
        Sides of the masks in pixels, joined by commas.
    shares
        Per cent of the worst values that a score is the mean of, joined by commas.
    masks
        Masked copies of each image for each size.
    count
        Images, at most.
    kind
        What the masks hold.
    add
        Add noise to the pixels instead of replacing them.
    seed
        Of all draws.
    """
    from recondite.studies.masks import feature_share_study

    rows = feature_share_study(
        _load(screen),
        images,
        output,
        sizes=_numbers("--sizes", sizes, int),
        shares=_numbers("--shares", shares, float),
        masks=masks,
        count=count,
        kind=kind,
        add=add,
        seed=seed,
        progress=True,
    )
    _print(rows, "mean score of the worst values", output)


def microscope(
    screen: Path,
    image: str,
    /,
    *,
    output: Output,
    sizes: str = "4,8,12,16",
    masks: int = 20,
    kind: Kind = "normal",
    add: Annotated[bool, Flag] = False,
    seed: int = 0,
) -> None:
    """Look at one image under masks: what is rebuilt and how each channel scores.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    image
        An image; of a folder or data set, one is chosen at random.
    output
        Folder for table.csv, figures and study.html.
    sizes
        Sides of the masks in pixels, joined by commas.
    masks
        Masks of each size.
    kind
        What the masks hold.
    add
        Add noise to the pixels instead of replacing them.
    seed
        Of all draws.
    """
    from recondite.studies.masks import microscope_study

    rows = microscope_study(
        _load(screen),
        image,
        output,
        sizes=_numbers("--sizes", sizes, int),
        masks=masks,
        kind=kind,
        add=add,
        seed=seed,
        progress=True,
    )
    _print(rows, "one image", output)


def defects(screen: Path, images: str, /, *, output: Output, count: int = 200, seed: int = 0) -> None:
    """Measure how well small made-up defects are told and found.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    images
        Normal images: folder, file, glob, .npy, .npz or data set.
    output
        Folder for table.csv, figures and study.html.
    count
        Images, at most.
    seed
        Of all draws.
    """
    from recondite.studies.severity import defects_study

    rows = defects_study(_load(screen), images, output, count=count, seed=seed, progress=True)
    _print(rows, "small defects", output)


def interpolation(
    screen: Path,
    images: str,
    /,
    *,
    output: Output,
    first: str | None = None,
    second: str | None = None,
    steps: int = 10,
    seed: int = 0,
) -> None:
    """Walk from one image to another through the latent space.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    images
        Folder, glob, .npy, .npz or data set with the two images.
    output
        Folder for table.csv, figures and study.html.
    first
        Id of the first image; at random by default.
    second
        Id of the second; by default at random, with another label.
    steps
        Images to decode.
    seed
        Of the choice.
    """
    from recondite.studies.latent import interpolation_study

    rows = interpolation_study(_load(screen), images, output, first=first, second=second, steps=steps, seed=seed)
    _print(rows, "between two images", output)


def denoising(
    screen: Path,
    images: str,
    /,
    *,
    output: Output,
    levels: str = "0.05,0.1,0.2,0.3,0.4,0.5",
    count: int = 200,
    seed: int = 0,
) -> None:
    """Add Gaussian noise to images, rebuild them, and measure error, PSNR and SSIM before and after.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    images
        Folder, file, glob, .npy, .npz or data set.
    output
        Folder for table.csv, figures and study.html.
    levels
        Standard deviations of the noise, joined by commas.
    count
        Images, at most.
    seed
        Of all draws.
    """
    from recondite.studies.latent import denoising_study

    rows = denoising_study(
        _load(screen),
        images,
        output,
        levels=_numbers("--levels", levels, float),
        count=count,
        seed=seed,
        progress=True,
    )
    _print(rows, "out of noise", output)


def latent_map(
    screen: Path,
    images: str,
    /,
    *,
    output: Output,
    count: int = 10_000,
    new: str | None = None,
    new_count: int = 500,
    thumbnails: bool = True,
    seed: int = 0,
) -> None:
    """Draw the latents of images as a map (t-SNE), coloured by label.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    images
        Folder, glob, .npy, .npz or data set.
    output
        Folder for table.csv, figures and study.html.
    count
        Images, at most.
    new
        Further images, placed into the finished map.
    new_count
        Of these, at most.
    thumbnails
        Draw some images at their places.
    seed
        Of all draws.
    """
    from recondite.studies.latent import latent_map_study

    rows = latent_map_study(
        _load(screen),
        images,
        output,
        count=count,
        new=new,
        new_count=new_count,
        thumbnails=thumbnails,
        seed=seed,
        progress=True,
    )
    print(f"{len(rows):,} images\ntable: {output / 'table.csv'}\npage:  {output / 'study.html'}")


def thresholds(
    screen: Path, images: str, /, *, output: Output, outliers: str | None = None, score: str = "error"
) -> None:
    """Compare threshold rules on fresh images, and draw the losses with all of them.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    images
        Normal images that it has not seen: folder, file, glob, .npy, .npz or data set.
    output
        Folder for table.csv, scores.csv, figures and study.html.
    outliers
        Images that do not belong.
    score
        error, evidence, auto or a statistic.
    """
    from recondite.studies.thresholds import thresholds_study

    rows = thresholds_study(_load(screen), images, output, outliers=outliers, score=score, progress=True)
    _print(rows, "threshold rules", output)


def linear(
    images: str,
    /,
    *,
    output: Output,
    latent_size: int = 20,
    epochs: int = 20,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> None:
    """Compare PCA, a linear autoencoder and a convolutional one at equal latent size.

    Parameters
    ----------
    images
        Normal images: folder, glob, .npy, .npz or data set; a fifth is held out.
    output
        Folder for table.csv, figures and study.html.
    latent_size
        Of all three.
    epochs
        Of both autoencoders.
    batch_size
        Of both autoencoders.
    learning_rate
        Of both autoencoders.
    seed
        Of the split, weights and draws.
    """
    from recondite.studies.linear import linear_study

    rows = linear_study(
        images,
        output,
        latent_size=latent_size,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        progress=True,
    )
    _print(rows, "linear and not", output)


def _load(path: Path) -> "Screen":
    from recondite.screen import load

    return load(path)


def _numbers(flag: str, text: str, kind: type[Any]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"expected {flag} as numbers joined by commas; got {text!r}") from None


def _print(rows: Sequence[Mapping[str, Any]], title: str, output: Path) -> None:
    cells = [tuple(f"{v:.5g}" if isinstance(v, float) else str(v) for v in row.values()) for row in rows]
    print_table([tuple(name.replace("_", " ") for name in rows[0]), *cells], title=title, header=True)
    print(f"\ntable: {output / 'table.csv'}\npage:  {output / 'study.html'}")
