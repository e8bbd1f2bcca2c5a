"""A folder in which one file in a hundred is damaged: one row each, nothing lost, and memory that does not grow.

    python benchmarks/damaged_folder.py [--images 20000]

Writes two folders of 64 x 64 PNG files, one ten times as large, screens both with `recondite predict` in a process of
its own, and compares the rows and the peak memory.
"""

import argparse
import csv
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from machine import where
from PIL import Image

import recondite
from recondite.data.catalog import open_named


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few bytes of header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000_000)))


def write_images(folder: Path, count: int) -> dict[str, int]:
    """Write real digits as colour pictures, each hundredth damaged in one of five ways; return how many of each."""
    images = open_named("mnist5k").items
    damages = ["truncated", "zero bytes", "text", "bomb", "NaN"]
    written = dict.fromkeys(damages, 0)
    big = bomb()
    for index in range(count):
        path = folder / f"{index % 10}" / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index % len(images)]).convert("RGB").resize((64, 64)).save(path)
        if index % 100 == 37:
            damage = damages[(index // 100) % len(damages)]
            written[damage] += 1
            if damage == "truncated":
                path.write_bytes(path.read_bytes()[:300])
            elif damage == "NaN":
                path.unlink()
                np.save(path.with_suffix(".npy"), np.full((32, 32, 3), np.nan, np.float32))
            else:
                path.write_bytes({"zero bytes": b"", "text": b"these are words", "bomb": big}[damage])
    return written


def predict(screen: Path, folder: Path, output: Path) -> tuple[float, float]:
    """Run `recondite predict` and return (seconds, peak memory in MiB)."""
    code = (
        "import sys; from recondite.cli import main; code = main(sys.argv[1:]); "
        # getrusage would begin with the peak of the process that it was forked from.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]; "
        "print('peak', peak); sys.exit(code)"
    )
    start = time.monotonic()
    command = [sys.executable, "-c", code, "predict", str(screen), str(folder), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = next(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak"))
    return time.monotonic() - start, peak / 1024


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        screen = root / "screen"
        recondite.fit("mnist5k", detector="autoencoder", image_size=32, epochs=3, width=16).save(screen)
        peaks = []
        for size in (count // 10, count):
            folder = root / str(size)
            written = write_images(folder, size)
            seconds, peak = predict(screen, folder, root / f"{size}.csv")
            peaks.append(peak)
            with (root / f"{size}.csv").open(newline="") as stream:
                rows = list(csv.DictReader(stream))
            invalid = [row for row in rows if row["verdict"] == "invalid"]
            reasons: dict[str, int] = {}
            for row in invalid:
                reason = row["error"].split(":")[0][:60]
                reasons[reason] = reasons.get(reason, 0) + 1
            print(
                f"{size} files: {len(rows)} rows, {len({row['id'] for row in rows})} different ids, "
                f"{sum(written.values())} damaged {written}, {len(invalid)} invalid, "
                f"{sum(row['is_outlier'] == 'False' for row in invalid)} of them taken for normal; "
                f"{seconds:.0f} s ({size / seconds:.0f} files/s), peak memory {peak:.0f} MiB"
            )
            for reason, number in sorted(reasons.items()):
                print(f"    {number:5d}  {reason}")
        print(f"peak memory, ratio of the larger to the smaller folder: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    arguments = parser.parse_args()
    print(where(), flush=True)
    main(arguments.images)
