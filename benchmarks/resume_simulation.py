"""A sweep of a million parts under random failures, without images: is every image in exactly one part at the end?

Workers die, some images kill every worker that touches them, and the driver itself is killed between and within any two
writes, so that lines and files are cut short. The ledger is the very one of `recondite predict --cluster`.

    python benchmarks/resume_simulation.py --parts 1000000
"""

import argparse
import hashlib
import random
import resource
import time
from itertools import pairwise

from recondite.cluster.ledger import Ledger, Part, PendingPart
from recondite.cluster.sources import Piece

WORKERS = 500
A_WORKER_DIES = 1e-3


class Killed(BaseException):
    """The driver, at this moment."""


class Disk:
    """What survives the driver; `left` more writes and it is killed in the middle of one."""

    def __init__(self, draws: random.Random) -> None:
        self.files: dict[str, bytes] = {}
        self.journal = bytearray()
        self.draws, self.left = draws, 1 << 60

    def _count(self) -> bool:
        self.left -= 1
        return self.left < 0

    def write(self, name: str, content: bytes) -> None:
        if self._count() and self.draws.random() < 0.5:
            raise Killed
        if name == "journal.jsonl":
            self.journal = bytearray(content)
        else:
            self.files[name] = content
        if self.left < 0:
            raise Killed

    def append(self, name: str, line: str) -> None:
        assert name == "journal.jsonl"
        if self._count():
            self.journal += line[: self.draws.randrange(len(line) + 1)].encode()
            raise Killed
        self.journal += line.encode()

    def read(self, name: str) -> bytes | None:
        return (bytes(self.journal) or None) if name == "journal.jsonl" else self.files.get(name)

    def digest(self, name: str) -> str | None:
        return hashlib.sha256(self.files[name]).hexdigest() if name in self.files else None

    def remove(self, name: str) -> None:
        self.files.pop(name, None)


class Simulation:
    """A sweep of `parts` parts of `size` images each, some of which are poison."""

    def __init__(self, parts: int, size: int, poison: int, seed: int) -> None:
        self.draws = random.Random(seed)
        self.disk = Disk(self.draws)
        self.pieces = [Piece(0, start, start + size) for start in range(0, parts * size, size)]
        self.images = parts * size
        self.poison = sorted(self.draws.sample(range(self.images), poison))
        self.poisoned = {image // size for image in self.poison}
        self.size = size
        self.judged = self.deaths = 0
        self.most_lost = 0

    def drive(self, writes: int | None) -> bool:
        """Run a driver until the end, or until it is killed after so many writes; return whether it got to the end."""
        self.disk.left = 1 << 60 if writes is None else writes
        busy: list[PendingPart] = []
        try:
            ledger = Ledger(self.disk, {"simulation": self.images}, self.pieces)
            while not ledger.finished:
                while len(busy) < WORKERS and (task := ledger.next()) is not None:
                    busy.append(task)
                place = self.draws.randrange(len(busy))
                busy[place], busy[-1] = busy[-1], busy[place]
                self._answer(ledger, busy.pop())
        except Killed:
            self.most_lost = max(self.most_lost, len(busy) + 1)
            return False
        self.ledger = ledger
        return True

    def _answer(self, ledger: Ledger, task: PendingPart) -> None:
        piece = task.piece
        bad = piece.start // self.size in self.poisoned and any(piece.start <= i < piece.stop for i in self.poison)
        blamed = False
        if bad or self.draws.random() < A_WORKER_DIES:
            self.deaths += 1
            if not ledger.died(task):
                return
            blamed = True
        assert piece.stop is not None
        self.judged += piece.stop - piece.start
        content = f"{piece.start} {piece.stop} {'blamed' if blamed else ''}".encode()
        ledger.finish(task, Part(task.name, f"part-{task.name}", piece.stop - piece.start, 0), content)

    def check(self) -> tuple[int, int]:
        """Return (images in parts, images blamed); raise AssertionError unless every image is in exactly one part."""
        spans = []
        blamed = []
        for part in self.ledger.in_order():
            start, stop, *word = self.disk.files[part.file or ""].split()
            spans.append((int(start), int(stop)))
            if word:
                blamed.append(int(start))
        assert spans[0][0] == 0
        assert spans[-1][1] == self.images
        assert all(one[1] == other[0] for one, other in pairwise(spans))
        assert all(image in set(blamed) for image in self.poison)
        assert {f"part-{name}" for name in self.ledger.done} <= set(self.disk.files)
        return sum(stop - start for start, stop in spans), len(blamed)


def main(parts: int, size: int, poison: int, kills: int, seed: int) -> None:
    start = time.monotonic()
    simulation = Simulation(parts, size, poison, seed)
    for _ in range(kills):
        simulation.drive(simulation.draws.randrange(2 * parts // kills))
    while not simulation.drive(None):
        pass
    images, blamed = simulation.check()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{parts:,} parts of {size} images, {WORKERS} workers: {simulation.deaths:,} workers died, "
        f"the driver {kills} times; "
        f"{images:,} of {parts * size:,} images in exactly one part, {blamed} of {poison} poison images named, "
        f"{simulation.judged - images:,} judged twice (at most {simulation.most_lost} parts lost by a kill), "
        f"{len(simulation.ledger.done):,} files; {time.monotonic() - start:.0f} s, peak memory {peak:.0f} MiB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--poison", type=int, default=20)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.parts, arguments.size, arguments.poison, arguments.kills, arguments.seed)
