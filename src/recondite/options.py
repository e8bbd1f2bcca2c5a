"""Options as frozen keyword-only dataclasses: checked on creation, written as JSON, shown as flags."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import pydantic
from pydantic import BeforeValidator, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from recondite.errors import InputError, did_you_mean

T = TypeVar("T")
AUGMENTATIONS = ("rotate", "zoom", "hue", "flip")
_WEIGHTLESS = ("patience", "picture_epochs")
_RENAMED = {"region": "worst_square"}
CHECKED = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
"""Configuration of every options class."""
FOUND_OUT = ("architecture", "taught")
"""Options that nobody gives: a fit finds them out, and a saved screen brings them back."""


def _augmentations(value: object) -> object:
    """Return names of augmentations joined by commas, from such text or a list of names."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple):
        raise ValueError(f"expected names among {', '.join(AUGMENTATIONS)}, joined by commas")
    given = [str(name).strip() for name in listed if str(name).strip()]
    if not set(given) <= set(AUGMENTATIONS) or len(set(given)) < len(given):
        raise ValueError(f"expected different names among {', '.join(AUGMENTATIONS)}, joined by commas")
    return ",".join(given)


def _picture_epochs(value: object) -> object:
    """Return "auto", "every", "none", or numbers joined by commas, from such text or a list of numbers."""
    text = ",".join(str(epoch) for epoch in value) if isinstance(value, list | tuple) else str(value)
    parts = [part.strip() for part in text.split(",")]
    if text not in ("auto", "every", "none") and not all(part.isdecimal() and part.isascii() for part in parts):
        raise ValueError("expected auto, every, none, or epochs joined by commas")
    return ",".join(parts)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class TrainingOptions:
    """How the training loop runs; the same for every detector that is trained by gradient steps."""

    epochs: Annotated[int, Field(ge=1, le=100_000, description="passes over the training images")] = 20
    batch_size: Annotated[int, Field(ge=1, le=65_536, description="images a step, over all processes")] = 128
    learning_rate: Annotated[float, Field(gt=0, le=10, description="Adam's step size; the peak of a schedule")] = 2e-3
    adam_beta1: Annotated[
        float, Field(ge=0, lt=1, description="decay of Adam's running mean of the gradient; .5 is usual for GANs")
    ] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1, description="L2 penalty, as in Adam")] = 0.0
    schedule: Annotated[
        Literal["constant", "one-cycle", "cosine"], Field(description="how the learning rate runs over the training")
    ] = "one-cycle"
    clip_norm: Annotated[float | None, Field(gt=0, description="largest norm of a group's gradient")] = None
    ema: Annotated[
        float | None, Field(gt=0, lt=1, description="decay of an exponential moving average of the weights, then used")
    ] = None
    patience: Annotated[
        int | None, Field(ge=1, description="stop after so many epochs without a lower validation error")
    ] = None
    keep_best: Annotated[bool, Field(description="end with the weights of the lowest validation error")] = True
    trim: Annotated[
        Annotated[float, Field(ge=0, lt=1)] | Literal["auto"],
        Field(
            description="share of the worst rebuilt training images left out of each epoch; auto for those whose "
            "errors lie far out"
        ),
    ] = 0.0
    augment: Annotated[
        str,
        BeforeValidator(_augmentations),
        Field(description="change training images at random: rotate, zoom, hue, flip, joined by commas"),
    ] = ""
    picture_epochs: Annotated[
        str,
        BeforeValidator(_picture_epochs),
        Field(description="rebuild ten validation images after these epochs: auto, every, none, or 0,4,8"),
    ] = "auto"
    precision: Annotated[
        Literal["fp32", "bf16"],
        Field(description="numbers of training, bf16 only where the processor has it; scoring has scoring_precision"),
    ] = "fp32"
    compile: Annotated[
        bool, Field(description="compile the networks with torch.compile while they learn; needs a C++ compiler")
    ] = False
    device: Annotated[str, Field(pattern="^(auto|cpu|cuda)$", description="where to compute: auto, cpu or cuda")] = (
        "auto"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31, description="seed of weights, shuffling and every random draw")] = 0


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class PoolingOptions:
    """How the errors of single values become a map and the score of the image; the same for all that rebuild images."""

    smooth: Annotated[
        float,
        Field(ge=0, le=64, description="sigma in pixels of a Gaussian that smooths the map of errors; 0 for none"),
    ] = 0.0
    worst_square: Annotated[
        int,
        Field(ge=0, le=512, description="score by the worst square of so many pixels a side; 0 for the whole image"),
    ] = 0
    top_percent: Annotated[
        float, Field(gt=0, le=100, description="share of the worst errors that make up the score of an image")
    ] = 100.0


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class PrecisionOptions:
    """What the networks compute in when they score; the same for all that have networks of their own."""

    scoring_precision: Annotated[
        Literal["fp32", "bf16"],
        Field(
            description="numbers of scoring and calibration; bf16 is faster where the processor multiplies it faster"
        ),
    ] = "fp32"


def make_options(kind: type[T], values: Mapping[str, Any], owner: str) -> T:
    """Create options of a kind from names and values.

    Raises:
        InputError: an unknown name (with the closest known one) or a value out of range, in words.
    """
    known = option_names(kind)
    for name in values:
        if name not in known:
            hint = did_you_mean(name, sorted(known)) or f"; it has: {', '.join(sorted(known))}"
            raise InputError(f"{owner} has no option {name!r}{hint}")
    try:
        return kind(**values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{owner}, option {where}: {first['msg']}; got {first['input']!r}") from error


def options_to_json(options: object) -> dict[str, Any]:
    """Return options as plain JSON values."""
    dumped = TypeAdapter(type(options)).dump_python(options, mode="json")
    assert isinstance(dumped, dict)
    return dumped


def shown_options(options: object) -> dict[str, str]:
    """Return the options that people give, by name, as they are written at the command line; "default" if left open."""
    given = {name: value for name, value in vars(options).items() if name[0] != "_" and name not in FOUND_OUT}
    return {name: _as_given(value) for name, value in given.items()}


def _as_given(value: object) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "default"
    return "default" if value is None else str(value)


def deciding_options(training: TrainingOptions) -> dict[str, Any]:
    """Return, as JSON values, those options of training that the weights after an epoch depend on."""
    return {name: value for name, value in options_to_json(training).items() if name not in _WEIGHTLESS}


def saved_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as they were saved, by their names of today."""
    return {_RENAMED.get(name, name): value for name, value in options.items()}


def option_names(kind: type) -> set[str]:
    """Return the names of all options of a kind."""
    return {field.name for field in fields(kind)}


def scores_of(kind: type) -> tuple[str, ...]:
    """Return the errors that a detector with options of a kind can judge by: the choices of its option `score`."""
    return get_args(describe_options(kind)["score"][0])


def describe_options(kind: type, defaults: Mapping[str, Any] | None = None) -> dict[str, tuple[Any, str, Any]]:
    """Return name -> (type, description, default) of all options, in order; used for the flags and the docs.

    Args:
        kind: a class of options.
        defaults: what holds in place of the class's own defaults.
    """
    hints = get_type_hints(kind, include_extras=True)
    described = {}
    for field in fields(kind):
        hint = hints[field.name]
        notes = [note.description for note in hint.__metadata__ if getattr(note, "description", None)]
        default = getattr(field.default, "default", field.default)
        default = (defaults or {}).get(field.name, None if default is MISSING else default)
        described[field.name] = (hint.__origin__, notes[0] if notes else "", default)
    return described
