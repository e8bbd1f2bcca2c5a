import importlib.util
import json
from pathlib import Path

import pytest

from recondite.cluster.ledger import Folder, Ledger, Part
from recondite.cluster.sources import Piece
from recondite.errors import InputError

PIECES = [Piece(0, 0, 100), Piece(0, 100, 200)]


def finish(ledger, task, content=b"rows"):
    images = task.piece.stop - task.piece.start
    ledger.finish(task, Part(task.name, f"part-{task.name}.csv", images, images, {"inlier": images}), content)


@pytest.fixture
def store(tmp_path):
    return Folder(tmp_path)


def test_a_part_is_handed_out_once_and_kept(store):
    ledger = Ledger(store, {"screen": 1}, PIECES)
    first, second = ledger.next(), ledger.next()
    assert ledger.next() is None
    finish(ledger, second)
    assert not ledger.finished
    again = Ledger(store, {"screen": 1}, PIECES)
    assert again.taken_up == 100
    assert again.next() == first
    assert again.next() is None
    finish(again, first)
    assert again.finished
    assert [part.name for part in again.in_order()] == ["000000000", "000000001"]


def test_a_part_that_was_altered_lost_or_never_noted_is_judged_again(store):
    ledger = Ledger(store, {}, PIECES)
    for _ in range(2):
        finish(ledger, ledger.next())
    (store.root / "part-000000000.csv").write_bytes(b"other")
    journal = store.root / "journal.jsonl"
    journal.write_text(journal.read_text()[:-20])  # a crash in the middle of the last line
    assert Ledger(store, {}, PIECES).taken_up == 0


def test_a_damaged_line_of_a_journal_ends_it(store):
    ledger = Ledger(store, {}, PIECES)
    for _ in range(2):
        finish(ledger, ledger.next())
    journal = store.root / "journal.jsonl"
    header, first, second = journal.read_text().splitlines(keepends=True)
    journal.write_text(header + first + "\0" * (len(second) - 1) + "\n")  # as a power cut may leave it
    assert Ledger(store, {}, PIECES).taken_up == 100


def test_a_journal_of_another_sweep_is_refused(store):
    Ledger(store, {"screen": 1}, PIECES)
    with pytest.raises(InputError, match="another screen or source"):
        Ledger(store, {"screen": 2}, PIECES)


def test_a_part_that_kills_twice_is_split_down_to_the_image(store):
    ledger = Ledger(store, {}, PIECES)
    deaths, blamed = 0, []
    while (task := ledger.next()) is not None:
        if task.piece.start <= 137 < task.piece.stop:
            deaths += 1
            if not ledger.died(task):
                continue
            blamed.append(task.piece)
        finish(ledger, task)
    assert blamed == [Piece(0, 137, 138)]
    assert deaths == 2 + 1 + 2
    assert sum(part.inputs for part in ledger.in_order()) == 200
    assert Ledger(store, {}, PIECES).finished  # the splits are taken up too


def test_a_part_whose_machine_died_once_is_judged_again_whole(store):
    ledger = Ledger(store, {}, PIECES)
    task = ledger.next()
    assert not ledger.died(task)
    assert ledger.next().piece == task.piece


def test_a_part_without_an_end_is_split_by_its_count(store):
    ledger = Ledger(store, {}, [Piece(3, 0, None)])
    ledger.died(ledger.next())
    ledger.died(ledger.next(), 4)
    assert [ledger.next().piece for _ in range(4)] == [Piece(3, index, index + 1) for index in range(4)]


def test_two_sweeps_cannot_write_to_one_folder(store):
    with store.locked(), pytest.raises(InputError, match="another process is writing"), store.locked():
        pass


def test_a_journal_is_plain_lines(store):
    ledger = Ledger(store, {"screen": 1}, PIECES)
    finish(ledger, ledger.next())
    lines = [json.loads(line) for line in (store.root / "journal.jsonl").read_text().splitlines()]
    assert lines[0] == {"screen": 1}
    assert (lines[1]["inputs"], lines[1]["rows"]) == (100, 100)


def test_under_random_failures_every_image_is_in_exactly_one_part():
    path = Path(__file__).parent.parent / "benchmarks" / "resume_simulation.py"
    spec = importlib.util.spec_from_file_location("resume_simulation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for seed in range(20):
        simulation = module.Simulation(parts=200, size=50, poison=3, seed=seed)
        for _ in range(8):
            simulation.drive(simulation.draws.randrange(50))
        while not simulation.drive(None):
            pass
        images, blamed = simulation.check()
        assert images == 10_000
        assert blamed >= 3
