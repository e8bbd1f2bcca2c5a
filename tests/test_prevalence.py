"""How often each class of a guard comes, as `recondite monitor` tells it."""

import numpy as np
import pytest

from recondite.cli import main
from recondite.data.tables import write_table
from recondite.reports.prevalence import class_shares
from recondite.screen.guard import Guard
from recondite.screen.guard_file import save_guard

LABELS = ("dark", "light")
CLEAR, CONFUSED, EMPTY = [[90, 10], [10, 90]], [[50, 50], [50, 50]], [[90, 0], [10, 0]]


@pytest.fixture
def monitored(screens, digits, tmp_path, capsys):
    """Monitor a guard that confuses classes as given; return the exit code, what was printed, and the folder."""
    screen = screens("pca")
    screen.save(tmp_path / "guard")

    def watched(confusion, *flags):
        guard = Guard(screen=screen, classifier=None, classes=LABELS, confusion=np.array(confusion))
        save_guard(guard, tmp_path / "guard")
        predicted = ["dark"] * 150 + ["light"] * 50
        write_table(tmp_path / "labels.csv", guard.decide(screen.predict(digits[1400:1600]), predicted).records())
        report = ["--report", str(tmp_path / "m.html")]
        code = main(["monitor", str(tmp_path / "guard"), str(tmp_path / "labels.csv"), *report, *flags])
        return code, capsys.readouterr(), tmp_path

    return watched


def test_the_report_and_standard_error_tell_how_often_each_class_comes(monitored):
    code, printed, folder = monitored(CLEAR, "-o", "-")
    assert code == 0
    assert "How often each class comes" in printed.err
    (line,) = [line for line in printed.err.splitlines() if line.startswith("dark")]
    assert "How often" not in printed.out
    page = (folder / "m.html").read_text()
    assert "How often each class comes" in page
    cells = [cell for cell in line.split("  ") if cell]
    assert len(cells) == 5
    for cell in cells:
        assert f"<td>{cell.strip()}</td>" in page
    for name in ("share before", "share now", "95 % interval"):
        assert f"<th>{name}</th>" in page
    code, printed, _ = monitored(CLEAR)
    assert line.split() in [one.split() for one in printed.out.splitlines()]


@pytest.mark.parametrize(
    ("confusion", "why"),
    [
        (CONFUSED, "the classifier confuses some classes so much"),
        (EMPTY, "of labelled images of class 'light' there are none"),
    ],
)
def test_shares_that_cannot_be_told_keep_nothing_from_being_written(confusion, why, monitored, tmp_path):
    code, printed, folder = monitored(confusion, "-o", str(tmp_path / "m.csv"))
    assert code == 0
    (told,) = [line for line in printed.out.splitlines() if line.startswith("How often each class comes cannot be")]
    assert why in told
    assert (folder / "m.csv").exists()
    assert why.split("'")[0] in (folder / "m.html").read_text()


def test_a_guard_of_another_score_tells_no_shares_and_the_rest_is_written(screens, tmp_path):
    screens("pca").with_score("error").save(tmp_path)
    save_guard(Guard(screen=screens("pca").with_score("error"), classifier=None, classes=LABELS), tmp_path)
    found = class_shares(screens("pca"), str(tmp_path), "unread.csv")
    assert found.rows == []
    assert "is of another screen, score or calibration" in found.unknown
