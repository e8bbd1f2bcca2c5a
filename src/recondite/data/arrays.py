"""Files of arrays: many images in one .npy or .npz."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.errors import InputError

_LARGEST_ARCHIVE = 16 << 30


def load_arrays(path: Path) -> NDArray[Any]:
    """Return the array of a .npy, mapped, or that of a .npz which is called images, x or x_train, or else its first.

    Raises:
        InputError: it is damaged, holds no arrays or needs a pickle, or unpacks to more than 16 GB.
    """
    try:
        if path.suffix.lower() == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as loaded:
            size = sum(member.file_size for member in loaded.zip.infolist())
            if size > _LARGEST_ARCHIVE:
                raise InputError(f"it unpacks to {size:,} bytes; the limit is {_LARGEST_ARCHIVE:,}")
            for name in ("images", "x", "x_train", loaded.files[0] if loaded.files else ""):
                if name in loaded.files:
                    return np.asarray(loaded[name])
    except Exception as error:  # a damaged archive can fail in zipfile, zlib or numpy alike
        raise InputError(f"{path} is not a readable array file: {error}") from error
    raise InputError(f"{path} holds no arrays")
