"""Reading a screen from its folder, with torch only where it has a detector of torch."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recondite.data.artifacts import read_folder
from recondite.screen.saved import EXPORTED, KIND, SCHEMA, existing, read_exported

if TYPE_CHECKING:
    from torch import Tensor, nn


def read_screen(
    path: Path | str,
    *,
    encoder: "nn.Module | None" = None,
    decoder: "nn.Module | None" = None,
    backbone: "nn.Module | None" = None,
    classifier: "Callable[[Tensor], Tensor] | None" = None,
) -> dict[str, Any]:
    """Return the keyword arguments of the `Screen` in a folder. Nothing in its files is executed.

    Args:
        path: as in `located`.
        encoder, decoder, backbone, classifier: as in `recondite.load`.

    Raises:
        ArtifactError, InputError: as `recondite.load`.
    """
    path = existing(path)
    manifest, files = read_folder(path, SCHEMA, KIND, EXPORTED)
    if manifest["kind"] == EXPORTED:
        return read_exported(path, manifest, files)
    from recondite.screen.saved_detectors import read_fitted  # it needs torch

    return read_fitted(path, manifest, files, encoder, decoder, backbone, classifier)
