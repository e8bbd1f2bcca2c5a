"""The command line."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from types import FrameType
from typing import Any

from cyclopts import App, CycloptsError, CycloptsPanel, UnknownOptionError, UnusedCliTokensError

from recondite import __version__
from recondite.cli import audit, fit, guard, monitor, predict, serve, share, teach, train, update, watch
from recondite.cli.flags import alone
from recondite.data.addresses import without_secrets
from recondite.errors import ArtifactError, InputError, NotCalibratedError, ReconditeError, did_you_mean

_GOES_ON = {
    **dict.fromkeys(("predict", "audit", "study", "bench", "watch"), "; run the same command again to go on"),
    **dict.fromkeys(("fit", "update"), "; run the same command again with --resume to go on"),
}
"""How commands that keep what they have done go on; others begin anew."""

_OF_WHAT_WAS_GIVEN = (InputError, ArtifactError, NotCalibratedError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    That is 0 when all was done, 2 where what was given cannot be used (a flag, images, a table, a screen), 1 for any
    other failure (a disk, a network, a cluster, a training), 130 when interrupted, 143 or 129 by SIGTERM or SIGHUP.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names may hold what a console or a pipe cannot: it is written as \uXXXX
            stream.reconfigure(errors="backslashreplace")
    # A single "-" as a value would be taken for a flag.
    tokens = ["/dev/stdout" if one == "-" else one for one in (sys.argv[1:] if arguments is None else arguments)]
    try:
        if any(one == "" or (one.startswith("--") and one.endswith("=")) for one in tokens):
            raise InputError("an argument is empty, as where a variable is not set; the folder that you are in is .")
        with _interrupted_by_signals():
            make_app(tokens)(tokens, result_action="return_value")
    except ReconditeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, _OF_WHAT_WAS_GIVEN) else 1
    except KeyboardInterrupt as error:
        print("interrupted" + _GOES_ON.get(" ".join(tokens[:1]), ""), file=sys.stderr)
        return 128 + (error.number if isinstance(error, _Signalled) else signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


class _Signalled(KeyboardInterrupt):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt the block as Ctrl-C does, so that nothing is left behind; a second one kills.

    Those that something else handles, or that are ignored, as under nohup, stay as they are. An error that ends the
    block after a signal is the signal's doing: Ctrl-C in the middle of an import may come out of it as an ImportError.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    ours = [one for one, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    came = []

    def interrupt(number: int, _: FrameType | None) -> None:
        came.append(number)
        for one in ours:
            signal.signal(one, before[one])
        raise _Signalled(number)

    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    except Exception:
        if came:
            raise _Signalled(came[0]) from None
        raise
    finally:
        for number in ours:
            signal.signal(number, before[number])


def make_app(tokens: Sequence[str]) -> App:
    """Return the application; `fit` and `study` have the flags of the detectors that `tokens` name."""
    app = App(
        name="recondite",
        version=__version__,
        help="Finds the images that do not belong, at a false-alarm rate you choose.",
        help_epilogue="Begin with: recondite fit good_images/ -o screen/",
        suppress_keyboard_interrupt=False,
        error_formatter=_in_words,
    )
    # The flags of `fit` come from the detectors: they are only made when asked for.
    app.command(fit.fit_with_flags(tokens[1:]) if tokens[:1] == ["fit"] else fit.bare_fit, name="fit")
    app.command(train.studies_with_flags(tokens[1:]) if tokens[:1] == ["study"] else train.bare_study, name="study")
    judging = (predict.predict, predict.evaluate, predict.show, predict.sample, watch.watch, serve.serve)
    looking_back = (monitor.monitor, monitor.reweigh, monitor.sample_for_review, monitor.recalibrate)
    changing = (fit.info, update.update, teach.teach, share.export, share.push)
    others = (monitor.guard_report, share.datasets, share.detectors, share.demo, audit.audit)
    for command in (*judging, *looking_back, *changing, *others):
        app.command(command)
    bench = App(name="bench", help="Measure the detectors.")
    bench.command(alone(train.bench_pairs), name="pairs")
    bench.command(alone(train.bench_defects), name="defects")
    app.command(bench)
    guards = App(name="guard", help="A classifier behind a screen: a label, or none and the reason.")
    guards.command(alone(guard.guard_fit), name="fit")
    guards.command(alone(guard.guard_predict), name="predict")
    app.command(guards)
    for name in app:
        if not name.startswith("-"):
            app[name].help_epilogue = ""  # else every command shows that of the application
    return app


def _in_words(error: CycloptsError) -> Any:
    """Return what is shown of an error in a command line; what is left over may be a list with spaces."""
    if isinstance(error, UnusedCliTokensError):
        left = " ".join(map(without_secrets, error.unused_tokens or ()))
        return CycloptsPanel(
            f"expected nothing more; got: {left}. Several values of one flag are joined by commas or, where its help "
            "says so, the flag is repeated; a name with spaces needs quotation marks."
        )
    if isinstance(error, UnknownOptionError):  # named without its value, which may be an address
        name = (error.token.keyword or error.token.value).partition("=")[0]
        known = [one for argument in error.argument_collection for one in argument.names]
        return CycloptsPanel(f"Unknown option: {name}{_of_detectors(name, known) or did_you_mean(name[1:], known)}")
    return CycloptsPanel(error)


def _of_detectors(flag: str, known: Sequence[str]) -> str:
    """Return which other detectors have a flag, as the end of a sentence, where there is a detector to choose."""
    if "--detector" not in known:
        return ""
    from recondite.detector_options import OPTIONS_BY_NAME
    from recondite.options import option_names

    option = flag.removeprefix("--").replace("-", "_")
    having = [name for name, kind in OPTIONS_BY_NAME.items() if option in option_names(kind)]
    return f"; it is an option of --detector {' or '.join(having)}" if having else ""
