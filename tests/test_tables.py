import pytest

from recondite.data.tables import check_table_path, write_table
from recondite.errors import InputError


def test_a_table_that_fails_half_way_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.csv"
    write_table(path, [{"a": 1}])

    def failing():
        yield {"a": 2}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_table(path, failing())
    assert path.read_text().split() == ["a", "1"]


def test_unknown_tables_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"ends in .csv, .jsonl, .parquet"):
        check_table_path(tmp_path / "a.xlsx")


def test_a_column_of_nothing_is_text_unless_it_is_known_to_hold_numbers(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "a.parquet", [{"error": None, "score": None}], ["score"])
    assert [str(field.type) for field in parquet.read_schema(tmp_path / "a.parquet")] == ["string", "double"]
