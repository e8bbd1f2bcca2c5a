"""Groups: images that belong together by what the user says, such as the pictures of one part or of one scene.

Each image is judged by models fitted without its group, as without its copies. That images of a group are nearly alike
is expected and no finding; the same pixels are one, and so are copies of images of another group.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recondite.audits.copies import Copies, linked
from recondite.audits.walk import Images
from recondite.cluster.sources import ListedSource
from recondite.data.units import COPIES, NONE, GroupBy, check_group_by, labelled, labels_of
from recondite.errors import InputError
from recondite.progress import counted


@dataclass(frozen=True)
class Groups:
    """What belongs together among N images.

    Args:
        labels: the name of each image's group; None for an image that belongs to no other.
        numbers: the number of each image's group (N,), copies of each other in one.
        expected: pairs of near copies within a group, which are no findings.
    """

    labels: list[str | None]
    numbers: NDArray[np.intp]
    expected: int = 0

    def in_words(self, by: GroupBy) -> str:
        """Return what a report says of groups.

        Args:
            by: what told them.
        """
        count = len({label for label in self.labels if label is not None})
        told = f"by {str(by)!r}" if isinstance(by, str) else "as given"
        alone = self.labels.count(None)
        of_none = f", and {counted(alone, 'image')} of none" if alone else ""
        return (
            f"grouped {told}, {counted(count, 'group')}{of_none}: each image is judged by models fitted without its "
            f"group; {counted(self.expected, 'pair')} of near copies within a group, as expected, not listed"
        )


def checked(images: Images, by: GroupBy) -> GroupBy:
    """Return what tells groups, labels in order as labels by id.

    Raises:
        InputError: a pattern or table that cannot be read or fits no image, another number of labels than images, or
            labels in order for images whose ids are not known yet.
    """
    check_group_by(by)
    if not isinstance(images.source, ListedSource):
        if not isinstance(by, str) and isinstance(by, Sequence):
            raise InputError("expected labels of groups by id for a source that is read once; got a list")
        return by
    by = labels_of(images.source.listed, by)
    labelled(images.source.listed.ids or (), by)
    return by


def grouped(ids: Sequence[str], digests: Sequence[str], copies: Copies, by: GroupBy) -> tuple[Groups, Copies]:
    """Return the groups of images, and the copies that are findings.

    Args:
        ids: of the N images that are judged.
        digests: of the pixels of these, and of M others that are only compared with.
        copies: of all of them.
        by: what tells groups.

    Raises:
        InputError: what fits no image, or puts all images into one group.
    """
    count = len(ids)
    labels = labelled(ids, by) or [None] * count
    if str(by) in (COPIES, NONE):
        return Groups(labels, copies.group[:count]), copies
    names, place = np.unique([label for label in labels if label is not None], return_inverse=True)
    if len(names) == 1 and None not in labels:
        raise InputError(f"expected at least two groups, to judge images by others; all are in {str(names[0])!r}")
    told = np.flatnonzero([label is not None for label in labels])
    everything = np.concatenate([copies.pairs, [told, len(digests) + place]], axis=1)
    numbers = linked(everything, len(digests) + len(names))[:count]
    every = np.array([*(-1 if label is None else names.searchsorted(label) for label in labels), *[-1] * len(digests)])
    one, two = copies.pairs
    same = np.array([digests[i] == digests[j] for i, j in copies.pairs.T], dtype=bool)
    expected = (every[one] == every[two]) & (every[one] >= 0) & ~same
    left = copies.pairs[:, ~expected]
    between = Copies(linked(left, len(digests)), left, copies.alike[~expected])
    return Groups(labels, numbers, int(expected.sum())), between
