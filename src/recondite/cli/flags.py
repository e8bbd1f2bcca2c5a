"""Flags that commands share, and how they are read."""

import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, TypeVar, get_args, get_origin

from cyclopts import Parameter, Token

from recondite.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from recondite.screen.guard import Guard
    from recondite.screen.screen import Screen

N = TypeVar("N", int, float)
CLUSTER_GROUP = "Cluster"
ScreenFolder = Annotated[
    str,
    Parameter(
        help="Folder that `recondite fit` wrote, the name of a ready screen (digits), or hf://ORG/NAME[@REVISION]."
    ),
]
Device = Annotated[str, Parameter(help="cpu or cuda.")]
Output = Annotated[Path, Parameter(alias="-o")]
OnBad = Literal["flag", "skip", "raise"]
Score = Annotated[
    str | None,
    Parameter(
        help="Score to judge by: error, evidence, auto or a statistic; `recondite info` lists them. By default the "
        "screen's."
    ),
]


def _rate(kind: type, tokens: Sequence[Token]) -> float:  # noqa: ARG001
    """Return a number, also one written as a fraction."""
    text = tokens[0].value
    try:
        return float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ArithmeticError):
        raise InputError(f"expected a number such as 0.05, or a fraction such as 1/20; got {text!r}") from None


def _names(kind: type, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Return names joined by commas, those of a flag that was repeated together."""
    found = tuple(name for token in tokens for name in names_of(token.value) or ())
    known = get_args(get_args(kind)[0])
    if known and (unknown := [name for name in found if name not in known]):
        near = did_you_mean(unknown[0], known)
        raise InputError(f"expected names among {', '.join(known)}, joined by commas; got {unknown[0]!r}{near}")
    return found


Rate = Annotated[float, Parameter(converter=_rate)]
"""A probability or a share of images."""
Alpha = Annotated[
    Rate | None, Parameter(help="False-alarm rate, in (0, 1), such as 0.05 or 1/20; by default the screen's.")
]
Confidence = Annotated[
    Rate | None,
    Parameter(help="Probability, in (0, 1), with which alpha holds for this calibration set; by default the screen's."),
]
Group = Annotated[
    str | None, Parameter(help="Group whose calibration holds for all images, where folders do not tell it.")
]
Statistics = Annotated[
    bool,
    Parameter(
        negative="",
        help="Also write the statistics that the screen judges by; `recondite monitor` finds with them what has "
        "shifted.",
    ),
]


def load_screen(
    path: str,
    alpha: float | None,
    confidence: float | None,
    device: str,
    score: str | None = None,
    others: Sequence[object] = (),
    sources: Sequence[str] = (),
) -> "Screen":
    """Load a screen, at another false-alarm rate or by another score if asked; what is wrong is told before that.

    Args:
        path: as the user gave it.
        alpha, confidence, score: in place of those of the screen.
        device: cpu or cuda.
        others: what the user gave beside it; if one of them is a screen and `path` is not, they may be swapped.
        sources: of images, likewise; each has to be there.

    Raises:
        InputError: a source is not there, the arguments were swapped, or there is no such device, score or rate.
        ArtifactError: as `recondite.load`.
    """
    from recondite.data.artifacts import holds_manifest
    from recondite.data.datasets import check_source
    from recondite.screen.described import Described, described
    from recondite.screen.saved import existing
    from recondite.screen.screen import load
    from recondite.statistics.calibration import check_promise

    check_promise(alpha, confidence)
    beside = [one for one in (*sources, *others) if holds_manifest(Path(str(one)))]
    if beside and not holds_manifest(Path(path)):
        raise InputError(f"{path} is not a screen, and {beside[0]} is one: did you swap the arguments?")
    folder = existing(path)
    for source in sources:
        check_source(source)
    looked_at = None
    if score is None and (alpha is not None or confidence is not None):
        looked_at = described(folder)
        at_rate(looked_at, alpha, confidence)  # calibration images may be too few; networks take longer to load
    screen = load(folder) if looked_at is None or isinstance(looked_at, Described) else looked_at
    if device != "cpu":
        screen = screen.to(device)
    if score is not None:
        screen = screen.with_score(score)
    return at_rate(screen, alpha, confidence)


def screen_to_write(output: Path, files: Mapping[str, Path | None] | None = None) -> Path:
    """Return the folder that a screen will be written to, absolute, if that and further outputs can be written.

    Args:
        output: the folder, as the user gave it.
        files: what the user calls each further output ("--report") -> its path; None where it is not asked for.

    Raises:
        ArtifactError: the folder is there and holds no screen.
        InputError: an output cannot be written, or is there twice.
    """
    from recondite.data.artifacts import check_target
    from recondite.data.outputs import check_outputs

    output = Path(os.path.abspath(output))
    check_target(output)
    check_outputs(files or {}, {"-o": output})
    return output


def at_rate(screen: "Screen", alpha: float | None, confidence: float | None) -> "Screen":
    """Return a screen at another false-alarm rate and confidence, where they are given."""
    if alpha is None and confidence is None:
        return screen
    return screen.with_alpha(screen.alpha if alpha is None else alpha, "keep" if confidence is None else confidence)


def check_cluster_flags(cluster: str | None, defaults: Mapping[str, object] | None, **given: object) -> None:
    """Check that flags which only count on a cluster are not given without one.

    Args:
        cluster: as the user gave it.
        defaults: of the command's parameters, by name.
        given: those of these flags, by name.

    Raises:
        InputError: one has another value than by default, and there is no cluster.
    """
    check_flags_count(cluster is not None, "without a cluster: give --cluster too", defaults, **given)


def check_flags_count(count: bool, otherwise: str, defaults: Mapping[str, object] | None, **given: object) -> None:
    """Check that flags are not given which would change nothing beside the others.

    Args:
        count: whether they change something.
        otherwise: why they do not, as the rest of a sentence.
        defaults: of the command's parameters, by name.
        given: those of these flags, by name.

    Raises:
        InputError: one has another value than by default, and they do not count.
    """
    changed = [f"--{name.replace('_', '-')}" for name, value in given.items() if value != (defaults or {}).get(name)]
    if changed and not count:
        raise InputError(f"{' and '.join(changed)} would change nothing {otherwise}")


def tell_of_guard(screen: str, what: str) -> None:
    """Say on standard error what becomes of the guard in the folder of a screen, if there is one.

    Args:
        screen: the folder, as the user gave it.
        what: as the rest of a sentence.
    """
    from recondite.screen.saved import holds_guard

    if holds_guard(screen):
        print(f"{screen} holds a guard, which {what}", file=sys.stderr)


def saved_guard(screen: "Screen", folder: str) -> "Guard":
    """Return the guard in the folder of a screen.

    Args:
        screen: loaded from it.
        folder: as the user gave it.

    Raises:
        InputError: it holds none.
        ArtifactError: as `load_guard`.
    """
    from recondite.screen.guard_file import load_guard
    from recondite.screen.saved import holds_guard, located

    if not holds_guard(folder):
        raise InputError(f"{folder} holds no guard (recondite guard fit makes one)")
    return load_guard(screen, located(folder))


def tell_of_lost_guard(screen: str, output: Path) -> None:
    """Say on standard error that a screen which is about to be made of another one has no guard, if that one has.

    Args:
        screen: the folder of that one, as the user gave it.
        output: the folder of the new one, which may be the same.
    """
    fit = f"recondite guard fit {shlex.quote(str(output))} IMAGES ... -o NEW_GUARD"
    tell_of_guard(screen, f"is not taken over: fit it anew with {fit}")


def alone(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that refuses to run while another process writes to the same `output`."""

    @wraps(command)
    def run(*arguments: Any, **named: Any) -> None:
        from recondite.data.files import locked

        with locked(named["output"]):
            command(*arguments, **named)

    return run


@contextmanager
def run_folder_of(output: Path) -> Iterator[Path]:
    """Yield the folder where training that writes a screen keeps its checkpoint and logs; it goes when all went well.

    Of several processes the first one removes it. Where training broke off it stays, for --resume; so does one with
    logs for TensorBoard.
    """
    import shutil

    from recondite.data.files import fitting
    from recondite.training.logs import TENSORBOARD

    folder = output.with_name(fitting(output.name, ".run"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # empty where training never began
        raise
    if os.environ.get("RANK", "0") == "0" and not (folder / TENSORBOARD).exists():
        shutil.rmtree(folder, ignore_errors=True)


def options_of(name: str) -> tuple[type, Mapping[str, Any]]:
    """Return a detector's kind of options and its defaults of training; torch is imported only if they are in its file.

    Raises:
        InputError: there is no detector of that name.
    """
    from recondite.detector_options import OPTIONS_BY_NAME

    if name not in OPTIONS_BY_NAME:
        from recondite.detectors import detector_class

        return detector_class(name).Options, detector_class(name).training_defaults
    kind = OPTIONS_BY_NAME[name]
    return kind, getattr(kind, "training_defaults", {})


def option_flags(
    title: str, *kinds: type, defaults: Mapping[str, Any] | None = None, without: Collection[str] = ()
) -> Any:
    """Return a TypedDict of kinds of options: only the flags that were given reach the call."""
    from recondite.options import FOUND_OUT, describe_options

    fields = {}
    for name, (hint, text, default) in (item for kind in kinds for item in describe_options(kind, defaults).items()):
        shown = "none" if default in (None, "", ()) else f"{default:g}" if isinstance(default, float) else str(default)
        if name in fields:
            shown = "that of the detector"
        several = get_origin(hint) is tuple
        told = f"{text[:1].upper()}{text[1:]}.{' Several are joined by commas.' if several else ''} [default: {shown}]"
        if name not in (*without, *FOUND_OUT):
            fields[name] = Annotated[
                hint,
                Parameter(help=told, converter=_names if several else None, negative_none="", negative_iterable=""),
            ]
    return TypedDict(title.replace(" ", "_"), fields, total=False)  # type: ignore[operator]


class _Nothing(TypedDict):
    pass


NoFlags = Annotated[_Nothing | None, Parameter(name="*")]
"""In place of flags of options, where there are none."""


def all_among(names: Collection[str], tokens: Sequence[str]) -> bool:
    """Return whether all flags among tokens are of parameters with such names, or -o."""
    flags = {token.partition("=")[0] for token in tokens if token.startswith("-")} - {"-o"}
    return {flag.removeprefix("--").removeprefix("no-").replace("-", "_") for flag in flags} <= {*names}


def value_of(flag: str, tokens: Sequence[str]) -> str | None:
    """Return the value of a flag among tokens; None where it is not there."""
    for index, token in enumerate(tokens):
        if token == flag and index + 1 < len(tokens):
            return tokens[index + 1]
        if token.startswith(f"{flag}="):
            return token.partition("=")[2]
    return None


def names_of(text: str | None) -> list[str] | None:
    """Return names joined by commas as a list."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def numbers_of(flag: str, text: str, kind: type[N]) -> list[N]:
    """Return numbers joined by commas.

    Args:
        flag: what the user calls them.
        text: as the user gave it.
        kind: int for whole numbers, or float.

    Raises:
        InputError: it is something else.
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(f"expected {flag} as {what} joined by commas; got {text!r}") from None


def share_or_source(text: str) -> float | str:
    """Return a share as a number, or else the text, a source of images."""
    try:
        return float(text)
    except ValueError:
        return text


GROUP_BY_HELP = (
    "What tells images that belong together and stay in one part: copies (near-copies and bursts are found), none, "
    "folder, prefix, a regular expression found in the ids, or a .csv file with the columns id and group."
)
VALUE_RANGE_HELP = (
    "Stored values that are black and white in all images, such as 0,4095 for 12 bits in files of 16. [default: what "
    "the tags of the files say, or else their type]"
)


def value_range_of(text: str | None) -> tuple[float, float] | None:
    """Return two numbers joined by a comma.

    Raises:
        InputError: it is something else.
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"expected --value-range as black and white, such as 0,4095; got {text!r}") from None
    return low, high


def image_size_of(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) from 32 or 24x32.

    Raises:
        InputError: it is something else.
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise InputError(f"expected --image-size 32 or 24x32 (height x width); got {text!r}")
    return int(sides[0]), int(sides[-1])
