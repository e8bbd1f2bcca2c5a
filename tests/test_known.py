"""What a screen remembers of the images that it has met."""

import numpy as np
import pytest

from recondite import ArtifactError
from recondite.data.spool import Spool
from recondite.screen.known import Known


def spool_of(first, count):
    numbers = np.arange(first, first + count)
    hashes = np.frombuffer(np.repeat(numbers, 2).astype("<i8").tobytes(), dtype="V16")
    small = np.repeat(numbers[:, None], 3, axis=1).astype(np.float32)
    return Spool(small, hashes, small, [str(number) for number in numbers], [""] * count, [])


def numbers_of(hashes):
    return np.frombuffer(hashes.tobytes(), dtype="<i8")[::2].tolist()


def test_later_images_come_behind_earlier_ones_each_with_its_own_thumbnail():
    first, second = spool_of(0, 4), spool_of(10, 3)
    before = Known.of([(first, np.array([2, 0]), True), (first, np.array([3]), False)]).taught(spool_of(90, 2))
    after = Known.of([(second, np.arange(3), False)], before)
    assert numbers_of(after.hashes) == [2, 0, 3, 10, 11, 12]
    assert after.learnt.tolist() == [True, True, False, False, False, False]
    assert after.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert after.small[:, 0].tolist() == [2, 0, 3, 10, 11, 12]
    assert numbers_of(after.defects) == [90, 91]
    assert len(Known.of([(first, np.arange(4), True)]).defects) == 0
    learnt = after.learnt_alone()
    assert numbers_of(learnt.hashes) == [2, 0]
    assert learnt.small[:, 0].tolist() == [2, 0]
    third = Known.of([(spool_of(20, 1), np.arange(1), True)], Known.of([(second, np.arange(3), True)], learnt))
    assert third.rows.tolist() == [0, 1, 2, 3, 4, 5]


def test_thumbnails_are_kept_of_five_thousand_images():
    many = spool_of(0, 5003)
    known = Known.of([(many, np.arange(5003), True)])
    assert len(known.rows) == len(known.small) == 5000
    assert known.rows.tolist() == sorted(known.rows) == known.small[:, 0].tolist()
    assert len(known) == 5003


def test_what_was_saved_is_read_again():
    known = Known.of([(spool_of(0, 3), np.arange(3), True)])
    for one in (known, known.taught(spool_of(7, 2))):
        again = Known.from_tensors(one.tensors())
        assert again.tensors().keys() == one.tensors().keys()
        assert all(np.array_equal(value, one.tensors()[name]) for name, value in again.tensors().items())
    older = known.tensors()
    del older["defects"]  # as screens were before they were taught any
    assert len(Known.from_tensors(older).defects) == 0
    del older["complete"]  # nor did they say that some are missing
    assert Known.from_tensors(older).complete
    none = {name: value[:0] for name, value in known.tensors().items() if name in ("rows", "small")}
    assert len(Known.from_tensors({**known.tensors(), **none}).rows) == 0


def test_that_others_were_met_before_is_not_forgotten_as_images_are_added():
    first = Known.unkept(spool_of(0, 3))
    assert len(first) == 0
    assert not first.met(spool_of(0, 3), "none", spool_of(0, 3).hashes).any()
    later = Known.of([(spool_of(5, 2), np.arange(2), True)], first.learnt_alone())
    assert numbers_of(later.hashes) == [5, 6]
    for one in (first, later, later.learnt_alone(), later.taught(spool_of(7, 2)), Known.from_tensors(later.tensors())):
        assert not one.complete
    assert Known.of([(spool_of(5, 2), np.arange(2), True)]).learnt_alone().complete


@pytest.mark.parametrize(
    "damage",
    [
        {"hashes": np.zeros((3, 16), np.int8)},
        {"hashes": np.zeros((3, 15), np.uint8)},
        {"defects": np.zeros((1, 16), np.int8)},
        {"defects": np.zeros((1, 15), np.uint8)},
        {"learnt": np.zeros(2, np.uint8)},
        {"small": np.zeros(3, np.float32)},
        {"rows": np.arange(2)},
        {"rows": np.array([-1, 0, 1])},
        {"rows": np.array([0, 1, 3])},
        {"rows": np.array([2, 0, -1])},
        {"complete": np.ones(2, np.uint8)},
    ],
)
def test_what_does_not_belong_together_is_refused(damage):
    known = Known.of([(spool_of(0, 3), np.arange(3), True)])
    with pytest.raises(ArtifactError, match="images that the screen has met are inconsistent"):
        Known.from_tensors({**known.tensors(), **damage})
