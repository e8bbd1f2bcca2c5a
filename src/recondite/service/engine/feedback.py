"""The event store read back: labelled verdicts for recalibration, and confirmed normal images as a folder to fit."""

from pathlib import Path

from recondite.data.addresses import without_secrets
from recondite.data.files import atomic_file
from recondite.data.formats import suffix_of
from recondite.data.tables import READERS
from recondite.errors import InputError
from recondite.service.engine.image_store import KeptImages
from recondite.service.engine.store import read_store

_SCHEMES = ("sqlite", "postgresql", "postgres")


def register() -> None:
    """Let `recondite.data.tables.read_events` take the address of a store."""
    for scheme in _SCHEMES:
        READERS.setdefault(scheme, read_store)


def write_confirmed(store: str, kept: Path, folder: Path) -> int:
    """Copy the kept images whose last label is "inlier" into a folder, to fit a screen with, and return how many.

    An image may have several events; the label that was given last counts, on whichever of them.

    Args:
        store: its address, as `read_store` takes it.
        kept: the folder in which the service keeps images.
        folder: made if it is not there; an image is named by its SHA-256.

    Raises:
        InputError: no such store, or not one of the images is there.
    """
    images = KeptImages(kept, 0)
    labelled = sorted((row for row in read_store(store) if row["label"]), key=lambda row: row["label_number"])
    labels = {row["id"]: row["label"] for row in labelled}
    count = 0
    for sha256, label in labels.items():
        content = images.get(sha256) if label == "inlier" else None
        if content is not None:
            with atomic_file(folder / f"{sha256}{suffix_of(content)}") as temporary:
                temporary.write_bytes(content)
            count += 1
    if not count:
        raise InputError(
            f"{kept} holds none of the images that people labelled inlier in {without_secrets(store.partition('?')[0])}"
        )
    return count
