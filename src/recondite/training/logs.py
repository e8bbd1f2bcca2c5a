"""Training logs: steps and epochs as CSV, and TensorBoard where it is installed."""

import csv
import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recondite.data.files import atomic_file, naming

STEPS, EPOCHS, VALIDATION, TENSORBOARD = "steps.csv", "epochs.csv", "validation.csv", "tensorboard"


def start_logs(folder: Path) -> None:
    """Make the folder of a run and remove the logs of an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (STEPS, EPOCHS, VALIDATION):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)


def log_epoch(folder: Path, row: dict[str, Any], steps: list[dict[str, Any]], validation: Iterable[float]) -> None:
    """Write down one epoch.

    Args:
        folder: of the run.
        row: the epoch, with "epoch" and "validation".
        steps: its steps, each with "epoch", "step" and figures.
        validation: the validation error of each batch after the epoch; none without validation images.
    """
    batches = [{"epoch": row["epoch"], "batch": 1 + number, "loss": loss} for number, loss in enumerate(validation)]
    _append_rows(folder / STEPS, steps)
    _append_rows(folder / EPOCHS, [row])
    if batches:
        _append_rows(folder / VALIDATION, batches)
    if not importlib.util.find_spec("tensorboard"):
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / TENSORBOARD)) as writer:
        for line in steps:
            for name in line.keys() - {"epoch", "step"}:
                writer.add_scalar(name, line[name], line["step"])
        if row["validation"] is not None:
            writer.add_scalar("validation", row["validation"], steps[-1]["step"])


def drop_logs_after(folder: Path, epoch: int) -> None:
    """Remove the rows of later epochs: what an interrupted epoch may have written will be written again."""
    for name in (STEPS, EPOCHS, VALIDATION):
        path = folder / name
        if path.exists():
            with path.open(newline="", encoding="utf-8") as stream:
                reader = csv.DictReader(stream)
                kept = [row for row in reader if int(row["epoch"]) <= epoch]
                columns = reader.fieldnames or []
            with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, fieldnames=columns)
                writer.writeheader()
                writer.writerows(kept)


def _append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    new = not path.exists()
    with naming(path), path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)
