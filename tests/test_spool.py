import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recondite.data.datasets import open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows, rows_at_once, split, spool
from recondite.errors import InputError


def read(source):
    return list(read_batches(open_images(source), Preprocessing(shape=(1, 8, 8)), 7))


def test_a_spool_holds_every_readable_image(folder):
    (folder / "even" / "000.png").write_bytes(b"")
    spooled = spool(read(folder), (1, 8, 8))
    assert len(spooled) == len(spooled.ids) == len(spooled.hashes) == 39
    assert spooled.bad[0][0] == "even/000.png"
    np.testing.assert_array_equal(spooled.pixels, np.concatenate([batch.pixels for batch in read(folder)]))
    assert spooled.fingerprint() == spool(read(sorted(folder.rglob("*.png"))[::-1]), (1, 8, 8)).fingerprint()


def test_nothing_readable_is_an_error():
    with pytest.raises(InputError, match="none of the 2 images"):
        spool(read([b"a", b"b"]), (1, 8, 8))


def hashes_of(values):
    return np.array([int(value).to_bytes(16, "little") for value in values], dtype="V16")


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=80),
    st.lists(st.integers(0, 30), min_size=1, max_size=3),
    st.integers(0, 2**31 - 1),
)
def test_splits_cover_all_rows_once_and_keep_duplicates_together(values, sizes, seed):
    parts = split(hashes_of(values), sizes, seed)
    assert len(parts) == len(sizes) + 1
    assert sorted(np.concatenate(parts)) == list(range(len(values)))
    for index, part in enumerate(parts):
        rest = [row for other, rows in enumerate(parts) for row in rows if other != index]
        assert not {values[row] for row in part} & {values[row] for row in rest}


def test_a_split_has_the_sizes_asked_for_and_does_not_depend_on_the_order():
    values = np.arange(1000)
    parts = split(hashes_of(values), [200, 100], seed=3)
    assert [len(part) for part in parts] == [200, 100, 700]
    shuffled = np.random.default_rng(0).permutation(values)
    again = split(hashes_of(shuffled), [200, 100], seed=3)
    assert [set(shuffled[part]) for part in again] == [set(part) for part in parts]
    assert set(split(hashes_of(values), [200, 100], seed=4)[0]) != set(parts[0])


def test_rows_are_taken_and_batched():
    rows = Rows(np.arange(20, dtype=np.float32).reshape(10, 2), np.array([9, 1, 4]))
    np.testing.assert_array_equal(rows.take(np.array([2, 0])), [[8, 9], [18, 19]])
    assert [len(batch) for batch in rows.batches(2)] == [2, 1]


@pytest.mark.parametrize("seed", range(20))
def test_a_large_group_of_copies_does_not_starve_the_small_parts(seed):
    keys = hashes_of([*range(700), *[999] * 300])
    assert [len(np.unique(keys[part])) for part in split(keys, [200, 100], seed)] == [140, 70, 491]


def test_a_chunk_has_a_size_in_bytes_not_in_images():
    assert rows_at_once((1, 8, 8)) * 4 * 64 == 64 << 20
    assert rows_at_once((3, 512, 512)) == 21
    assert rows_at_once((1 << 24,)) == 1
