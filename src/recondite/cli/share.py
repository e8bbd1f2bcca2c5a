"""recondite export, push, datasets, detectors, demo."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from recondite.cli.console import print_table
from recondite.cli.flags import Output, load_screen, screen_to_write, tell_of_guard
from recondite.errors import InputError


def push(
    screen: str,
    address: str,
    /,
    *,
    private: Annotated[bool, Parameter(negative="")] = False,
    license: str | None = None,  # noqa: A002
) -> None:
    """Publish a screen on the Hugging Face hub, with a model card.

    The manifest that is published lists the first unreadable images by name.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote, or the name of a ready screen.
    address
        hf://ORG/NAME.
    private
        Create a private repository.
    license
        Licence identifier on the hub, such as apache-2.0, for the card.
    """
    from recondite.reports.model_card import push as publish

    published = publish(screen, address, private=private, license=license)
    tell_of_guard(screen, "is not published: the hub has the screen alone")
    print(f"published: {published}")


def export(
    screen: str,
    output: Annotated[Path, Parameter(alias="-o")],
    *,
    to: Literal["onnx", "openvino"] = "onnx",
    int8: Annotated[str | None, Parameter(name="--int8")] = None,
    always_int8: Annotated[bool, Parameter(name="--always-int8", negative="")] = False,
    group_by: str = "copies",
    pixels: Literal["float32", "uint8"] = "float32",
    guard: bool = True,
) -> None:
    """Write a screen as one graph, from pixels to score, p-value and verdict; a guard to label and reason too.

    recondite predict, evaluate, show, guard predict and serve run the new folder like any other, through onnxruntime or
    OpenVINO.

    Parameters
    ----------
    screen
        Folder that `recondite fit` or `recondite guard fit` wrote.
    output
        Folder for the graph and its manifest.
    to
        Format of the graph: onnx (extra export) or openvino (extra openvino).
    int8
        Normal images that the screen has not learnt from: the network computes with 8-bit integers, and the threshold
        is set anew by them; for openvino. Where float32 is as fast on this machine, the graph is in float32.
    always_int8
        Write the graph with 8-bit integers though they are no faster here.
    group_by
        What tells images of --int8 that belong together, of which one calibrates; as in fit.
    pixels
        Input of the graph: float32 in [0, 1], or uint8 for other programs, which refuses images of another size.
    guard
        Export a guard with its classifier; --no-guard for the screen alone.
    """
    if to == "onnx" and int8 is not None:
        raise InputError("--int8 is for --to openvino")
    if always_int8 and int8 is None:
        raise InputError("--always-int8 needs the images of --int8")
    if group_by != "copies" and int8 is None:
        raise InputError("--group-by is of the images of --int8")
    target = screen_to_write(output)
    from recondite.data.files import locked
    from recondite.screen.export import PAYS, export_onnx, export_openvino
    from recondite.screen.guard_file import load_guard
    from recondite.screen.saved import holds_guard, located

    judge = load_screen(screen, None, None, "cpu")
    if guard and holds_guard(screen):
        if int8 is not None:
            raise InputError("--int8 is for screens: a guard's graph is in float32 (--no-guard for the screen alone)")
        from recondite.screen.export_guard import export_guard

        with locked(target):
            export_guard(load_guard(judge, located(screen)), output, to=to, pixels=pixels)
        print(f"exported: {output} (a guard; its scores and logits were compared with those of {screen})")
        return
    with locked(target):
        if to == "onnx":
            export_onnx(judge, output, pixels=pixels)
        else:
            calibrating: dict[str, Any] = {"int8": int8, "always_int8": always_int8, "group_by": group_by}
            export_openvino(judge, output, pixels=pixels, progress=True, **calibrating)
    done = f"its scores were compared with those of {screen}"
    if int8 is not None:
        from recondite.screen.screen import load

        written = load(output)
        precision, facts = written.detector.options.precision, written.facts["int8"]
        if precision == "int8":
            done = "calibrated anew, by the scores of the graph"
        ratio = facts["milliseconds"]["float32"] / facts["milliseconds"]["int8"]
        so = "and written all the same: --always-int8" if always_int8 and ratio < PAYS else f"so {precision}"
        print(f"int8: {ratio:.2f} times as fast as float32 on this processor ({facts['instructions']}), {so}")
    print(f"exported: {output} ({done})")
    if holds_guard(screen):
        print("not exported: the guard beside the screen, with its classifier and its calibration")


def datasets() -> None:
    """List the data sets that can be used by name."""
    from recondite.data.catalog import CATALOG

    rows = [(name, entry.description, ", ".join(entry.splits)) for name, entry in CATALOG.items()]
    print_table(rows, title="data sets: NAME[/SPLIT][:CLASS,CLASS]")
    print("classes: " + "; ".join(f"{name}: {', '.join(entry.classes)}" for name, entry in CATALOG.items()))


def detectors() -> None:
    """List the detectors, the presets and the ready screens."""
    from recondite.detectors import DETECTORS
    from recondite.screen.saved import READY
    from recondite.training.presets import PRESETS

    print_table(
        [(name, (kind.__doc__ or "").partition("\n")[0]) for name, kind in DETECTORS.items()],
        title="detectors (flags: recondite fit --detector NAME --help)",
    )
    rows = [(name, preset.detector, preset.summary) for name, preset in PRESETS.items()]
    print_table(rows, title="presets (recondite fit IMAGES --preset NAME -o SCREEN)")
    print_table([*READY.items()], title="ready screens (recondite predict NAME IMAGES -o verdicts.csv)")


def demo(*, output: Output = Path("demo"), epochs: int | None = None) -> None:
    """Fit screens on real digits and textures, judge others with what does not belong, and write a report of each.

    Parameters
    ----------
    output
        Folder for the screens, the tables and the reports.
    epochs
        Passes over the digits; by default enough to train well.
    """
    from recondite.data.outputs import check_outputs

    check_outputs({}, {"-o": output})
    from recondite.cli.demo import run_demo

    shown = run_demo(output, epochs)
    for rows, _ in shown:
        print_table([tuple(rows[0]), *(tuple(row.values()) for row in rows)], title="demo", header=True)
    for _, report in shown:
        print(f"report: {report}")
