"""What is said while work goes on, wherever standard error leads."""

import sys

import pytest

from recondite.cli.console import print_table
from recondite.progress import progress


class WriteOnly:
    """What a notebook or a logging set-up puts in the place of a standard stream."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass


def finish(steps):
    with progress("reading", steps, shown=True) as advance:
        for _ in range(steps):
            advance(1, "")


def test_a_program_without_a_console_is_told_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    finish(3)


def test_the_end_is_told_once_however_long_it_took(monkeypatch, capsys):
    monkeypatch.setattr("recondite.progress._SECONDS_BETWEEN_LINES", -1.0)
    finish(3)
    told = [line.split(" in ")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == ["reading: 1/3", "reading: 2/3", "reading: 3/3"]


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_a_stream_that_only_writes_is_no_terminal(monkeypatch, stream):
    monkeypatch.setattr(sys, stream, WriteOnly())
    if stream == "stderr":
        finish(3)
        assert sys.stderr.text.startswith("reading: 3/3 in ")
    else:
        print_table([("name", "value")], title="table")
        assert "value" in sys.stdout.text
