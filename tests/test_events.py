import numpy as np
import pytest

from recondite.data.tables import READERS, read_events, write_table
from recondite.errors import InputError
from recondite.statistics.scores import scored


@pytest.fixture(scope="module")
def rows(screens, digits):
    verdicts = screens("pca").predict([*digits[:20], b"x"])
    return verdicts, list(verdicts.records(statistics=True))


def test_an_unreadable_image_without_statistics_takes_none_from_those_after_it():
    bad = {"id": "a", "error": "no image"}
    good = [{"id": name, "instance_score": 1.0, "statistic.brightness": 0.5} for name in "bc"]
    ((scores, _),) = scored(iter([bad, *good]), "events")
    assert np.array_equal(scores.statistics["brightness"], [np.nan, 0.5, 0.5], equal_nan=True)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_of_verdicts_comes_back_to_the_bit(rows, tmp_path, suffix):
    verdicts, records = rows
    path = tmp_path / f"verdicts{suffix}"
    write_table(path, records)
    found = list(scored(read_events(path), "table"))
    assert sum(len(scores) for scores, _ in found) == 21
    values = np.concatenate([scores.instance_score for scores, _ in found])
    assert np.array_equal(values, verdicts.instance_score, equal_nan=True)
    for name, expected in verdicts.statistics.items():
        values = np.concatenate([scores.statistics[name] for scores, _ in found])
        assert np.array_equal(values, expected, equal_nan=True)
    assert [error for scores, _ in found for error in scores.errors] == list(verdicts.errors)
    assert [name for scores, _ in found for name in scores.ids] == list(verdicts.ids)


def test_ids_stay_text(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("id,label\n000007,inlier\n")
    assert list(read_events(path)) == [{"id": "000007", "label": "inlier"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "expected events as one of"),
        ("a.csv", "", "holds no events"),
        ("a.csv", "id,label\n", "holds no events"),
        ("a.csv", "name\n1\n", r"row 1: expected a row with an id \(or file_name\); it has: name$"),
        ("a.csv", "id,label\n1\n", "more or fewer cells"),
        ("a.csv", "id\n1,2\n", "more or fewer cells"),
        ("a.csv", b"id\n\xff\xfe\n", "not text in UTF-8"),
        ("a.csv", "id\na\n".encode("utf-16"), "not text in UTF-8: save it as CSV UTF-8"),
        ("a.jsonl", '{"id": "1"}\n{', "line 2: not JSON"),
        ("a.jsonl", "[1]\n", "expected a row with an id"),
        ("a.jsonl", "[" * 100_000, "not JSON"),
        ("a.parquet", "PAR1", "not a readable parquet file"),
    ],
)
def test_what_is_no_table_of_events_is_refused_in_words(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        list(read_events(path))


def test_a_file_that_is_not_there_is_named(tmp_path):
    for suffix in (".csv", ".jsonl", ".parquet"):
        with pytest.raises(InputError, match=f"none{suffix}"):
            list(read_events(tmp_path / f"none{suffix}"))


def test_a_score_must_be_a_number():
    with pytest.raises(InputError, match="event 2, instance_score: expected a number; got 'high'"):
        list(scored(iter([{"id": "a", "instance_score": "1"}, {"id": "b", "instance_score": "high"}]), "table"))
    for missing in ("", None, "nan", "inf"):
        with pytest.raises(InputError, match="neither an instance_score nor an error"):
            list(scored(iter([{"id": "a", "instance_score": missing}]), "table"))


def test_another_store_adds_its_reader(monkeypatch):
    monkeypatch.setitem(READERS, "memory", lambda address: iter([{"id": address}]))
    assert list(read_events("memory://x")) == [{"id": "memory://x"}]


def test_empty_lines_of_a_table_are_passed_over(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"id": "a"}\n\n{"id": "b"}\n \n', encoding="utf-8")
    assert [row["id"] for row in read_events(tmp_path / "events.jsonl")] == ["a", "b"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables_that_a_spreadsheet_saved_are_read(tmp_path, mark):
    path = tmp_path / "events.csv"
    text = mark.join(["id", "label"]) + "\r\n" + mark.join(['"a;b,c"', "inlier"]) + "\r\n"
    path.write_text(text, encoding="utf-8-sig", newline="")
    assert list(read_events(path)) == [{"id": "a;b,c", "label": "inlier"}]
