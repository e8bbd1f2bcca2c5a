"""How fast screens score, and what the processor is."""

import io
from types import SimpleNamespace

import numpy as np
import pytest

from recondite.screen import timing
from recondite.screen.timing import instructions, milliseconds, processor

SHAPE = (1, 2, 2)


class Clock:
    """A clock that stands still, but where a judge lets it go on."""

    def __init__(self, monkeypatch):
        self.now, self.looks = 1000.0, 0
        monkeypatch.setattr(timing.time, "perf_counter", self.look)

    def look(self):
        self.looks += 1
        assert self.looks < 1000, "it never ends"
        return self.now


class Judge:
    """Takes so many seconds for a batch of four, time after time; the last of them for all that follow."""

    def __init__(self, clock, *seconds):
        self.detector = SimpleNamespace(shape=SHAPE, scoring_batch=4)
        self.clock, self.seconds, self.batches = clock, list(seconds), []

    def score_batch(self, batch):
        self.batches.append(batch)
        self.clock.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_the_fastest_of_at_least_three_rounds_counts_and_the_first_is_none_of_them(clock):
    slow, fast = Judge(clock, 0.001, 8.0, 4.0, 6.0, 0.5), Judge(clock, 9.0, 1.0, 2.0, 3.0, 0.1)
    # In milliseconds an image.
    assert milliseconds({"slow": slow, "fast": fast}) == {"slow": 1000.0, "fast": 250.0}
    assert (len(slow.batches), len(fast.batches)) == (4, 4)
    assert slow.batches[0].pixels.shape == (4, *SHAPE)
    assert slow.batches[0].pixels.dtype == np.float32


def test_what_is_quick_is_tried_for_a_third_of_a_second_each(clock):
    judges = {"one": Judge(clock, 0.0625), "other": Judge(clock, 0.0625)}
    assert milliseconds(judges) == {"one": 15.625, "other": 15.625}
    # A round takes .125 s; after the fifth .6 s are over.
    assert [len(judge.batches) for judge in judges.values()] == [6, 6]
    assert milliseconds({"one": Judge(clock, 1 / 3)}) == {"one": 83.3333}


def of_processor(monkeypatch, text):
    def read_text(self, **_):
        assert str(self) == "/proc/cpuinfo"
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(timing.Path, "read_text", read_text)
    monkeypatch.setattr(timing.platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(timing.platform, "processor", lambda: "a chip")


CORE = "processor : {}\nmodel name : Chip 3000\ncpu MHz : {}\nflags : sse2 {}\n"


@pytest.mark.parametrize(
    ("flags", "held", "words"),
    [
        ("avx2 avx512f avx512_vnni amx_int8", None, "AMX"),
        ("avx2 avx512f avx512_vnni", None, "AVX-512 with VNNI"),
        ("avx2 avx_vnni", None, "AVX2 with VNNI"),
        ("avx2 avx512f", None, "AVX-512"),
        ("avx2", None, "AVX2"),
        ("avx", None, "riscv64"),
        ("avx2 avx512f avx512_vnni", "avx2", "AVX2, held to it"),
        ("avx2 avx512f", "AVX512_CORE_VNNI", "AVX-512"),  # what it lacks does not hold it
        ("avx2", "DEFAULT", "AVX2"),
    ],
)
def test_what_a_processor_multiplies_with(flags, held, words, monkeypatch):
    of_processor(monkeypatch, CORE.format(0, 3000, flags))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if held:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", held)
    assert instructions() == words


def test_a_processor_is_told_by_its_model_and_instructions(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    text = io.StringIO()
    for core in range(2):
        text.write(CORE.format(core, 3000 + core, "avx2"))
    of_processor(monkeypatch, text.getvalue())
    kind = processor()
    assert kind.splitlines() == ["flags : sse2 avx2", "model name : Chip 3000"]  # not how fast it runs just now
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert processor().splitlines() == [*kind.splitlines(), "AVX2"]
    of_processor(monkeypatch, None)
    assert processor().splitlines() == ["riscv64", "a chip", "AVX2"]
    assert instructions() == "riscv64"
