"""The images that a screen has met, told again by their pixels and by thumbnails: they must not calibrate."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.artifacts import Tensors
from recondite.data.spool import Spool, keys_of
from recondite.data.units import COPIES, NONE, GroupBy
from recondite.errors import ArtifactError, InputError
from recondite.short_repr import ShortRepr

_MOST_THUMBNAILS = 5000
_HASH = "V16"


@dataclass(frozen=True, eq=False, repr=False)
class Known(ShortRepr):
    """The images that a screen has met.

    Args:
        hashes: (N,) of their pixels, as in `recondite.data.spool.Spool`.
        learnt: bool (N,), False for those that calibrate, and were not learnt from.
        rows: (n,) of those that have a thumbnail, ascending: at most 5,000, drawn at random.
        small: float32 (n, at most 256), their thumbnails.
        defects: (D,) hashes of known defects that were learnt from.
        complete: False where it has met others before, and nobody kept which.
    """

    hashes: NDArray[np.void]
    learnt: NDArray[np.bool_]
    rows: NDArray[np.intp]
    small: NDArray[np.float32]
    defects: NDArray[np.void] = field(default_factory=lambda: np.empty(0, dtype=_HASH))
    complete: bool = True

    @classmethod
    def unkept(cls, images: Spool) -> "Known":
        """Return what is known where nobody kept it, so that images like these can be added."""
        none = np.empty(0, dtype=np.intp)
        return cls(images.hashes[:0], none.astype(bool), none, np.asarray(images.small[:0]), complete=False)

    @classmethod
    def of(cls, parts: Iterable[tuple[Spool, NDArray[np.intp], bool]], before: "Known | None" = None) -> "Known":
        """Return those at some rows of spools, and whether they were learnt from, after those known before.

        What was learnt from stays so, and of those that calibrated before only the ones learnt from now are kept.
        """
        parts = list(parts)
        hashes = np.concatenate([spool.hashes[rows] for spool, rows, _ in parts])
        learnt = np.repeat([told for _, _, told in parts], [len(rows) for _, rows, _ in parts])
        small = np.concatenate([spool.small[rows] for spool, rows, _ in parts])
        rows = np.arange(len(hashes))
        if before is not None:
            rows = np.concatenate([before.rows, len(before.hashes) + rows])
            hashes, learnt = np.concatenate([before.hashes, hashes]), np.concatenate([before.learnt, learnt])
            small = np.concatenate([before.small, small])
        chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:_MOST_THUMBNAILS])
        kept = np.asarray(small[chosen], dtype=np.float32)
        known = cls(hashes, learnt, rows[chosen], kept)
        return known if before is None else replace(known, defects=before.defects, complete=before.complete)

    def __len__(self) -> int:
        return len(self.hashes)

    def fingerprint(self, learnt: bool = True) -> str:
        """Return a SHA-256 over the pixels of all that were learnt from, or of all others, whatever their order."""
        hashes = self.hashes[self.learnt == learnt]
        return hashlib.sha256(b"".join(sorted(bytes(one) for one in hashes))).hexdigest()

    def learnt_alone(self) -> "Known":
        """Return those that were learnt from."""
        kept = self.learnt[self.rows]
        rows = (np.cumsum(self.learnt) - 1)[self.rows[kept]]
        hashes, learnt = self.hashes[self.learnt], self.learnt[self.learnt]
        return Known(hashes, learnt, rows, self.small[kept], self.defects, self.complete)

    def taught(self, defects: Spool) -> "Known":
        """Return these with the known defects that were learnt from, in place of others before."""
        return replace(self, defects=np.unique(defects.hashes))

    def refuse_defects(self, images: Spool) -> None:
        """Raise InputError where one of some good images was learnt from as a known defect."""
        both = np.flatnonzero(np.isin(images.hashes, self.defects))
        if len(both):
            raise InputError(
                f"{images.ids[both[0]]} was taught as a known defect ({len(both)} of these images were): it is no "
                "normal image, take it out"
            )

    def same(self, images: Spool) -> NDArray[np.bool_]:
        """Return which of some images have the pixels of one that is known (n,)."""
        return np.isin(images.hashes, self.hashes)

    def met(self, images: Spool, by: GroupBy, keys: NDArray[np.void]) -> NDArray[np.bool_]:
        """Return which of some images belong together with one that is known (n,).

        They have its pixels, or are near-copies of it, unless `by` says that equal pixels alone count; or they are of
        one unit with such an image. Labels of units are not kept, so that they tell nothing of the images before.

        Args:
            images: those asked about.
            by: what tells their units.
            keys: (n,) of these.
        """
        found = self.same(images)
        if not (isinstance(by, str) and by == NONE) and self.small.shape[1:] == images.small.shape[1:]:
            names = [""] * len(self.rows)
            known = Spool(self.small, self.hashes[self.rows], self.small, names, names, [])
            before, now = keys_of([known, images], COPIES)
            found |= np.isin(now, before)
        return np.isin(keys, keys[found])

    def tensors(self) -> Tensors:
        """Return all of it as arrays, to be saved."""
        return {
            "hashes": _bytes(self.hashes),
            "defects": _bytes(self.defects),
            "learnt": self.learnt.astype(np.uint8),
            "rows": self.rows.astype(np.int64),
            "small": self.small,
            "complete": np.array([self.complete], dtype=np.uint8),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> "Known":
        """Return what `tensors` gave.

        Raises:
            ArtifactError: the arrays do not belong together.
        """
        hashes, learnt, rows, small = (tensors[name] for name in ("hashes", "learnt", "rows", "small"))
        defects, complete = tensors.get("defects", hashes[:0]), tensors.get("complete", np.ones(1, dtype=np.uint8))
        if (
            hashes.dtype != np.uint8
            or hashes.shape[1:] != (16,)
            or defects.dtype != np.uint8
            or defects.shape[1:] != (16,)
            or learnt.shape != hashes.shape[:1]
            or complete.shape != (1,)
            or small.ndim != 2
            or rows.shape != small.shape[:1]
            or (len(rows) and not 0 <= rows.min() <= rows.max() < len(hashes))
        ):
            raise ArtifactError("the images that the screen has met are inconsistent")
        seen, taught = (np.frombuffer(some.tobytes(), dtype=_HASH) for some in (hashes, defects))
        numbers = rows.astype(np.intp), small.astype(np.float32)
        return cls(seen, learnt.astype(bool), *numbers, taught, bool(complete[0]))


def _bytes(hashes: NDArray[np.void]) -> NDArray[np.uint8]:
    return np.frombuffer(hashes.tobytes(), dtype=np.uint8).reshape(-1, 16)
