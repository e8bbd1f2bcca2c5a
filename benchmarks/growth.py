"""Time and memory against the number of images: time should grow with it, memory should not.

    python benchmarks/growth.py [--images 1000,10000,100000] [--screen SCREEN] [--publish]

A file of 32 x 32 x 3 noise of each size is judged by a process of its own, through `Screen.stream`, with the ready-made
choices of `recondite predict`. Without --screen, a small autoencoder is fitted for it. Memory is that of the whole
process, torch included: its own, looked at after every batch, and the peak with the pages of the file, which is mapped
and which the system takes back when it needs them. --publish puts the table into benchmarks/RESULTS.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import publish, where

import recondite

JUDGE = """
import json, sys, time, torch, recondite
torch.set_num_threads(int(sys.argv[3]))
screen = recondite.load(sys.argv[1])
def mib(kind):
    # Not getrusage, which would begin with the peak of the process that started this one.
    lines = open('/proc/self/status').read().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024
start, count, own = time.perf_counter(), 0, 0
for part in screen.stream(sys.argv[2]):
    count += len(part)
    own = max(own, mib('RssAnon'))
print(json.dumps({"images": count, "seconds": time.perf_counter() - start, "own": own, "peak": mib('VmHWM')}))
"""


def write_noise(path, count):
    generator = np.random.default_rng(0)
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, 32, 32, 3))
    for start in range(0, count, 1000):
        part = images[start : start + 1000]
        part[...] = generator.integers(0, 256, part.shape, dtype=np.uint8)
    images.flush()


def measured(screen, path, threads):
    command = [sys.executable, "-c", JUDGE, screen, path, str(threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="1000,10000,100000")
    parser.add_argument("--screen", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--publish", action="store_true")
    given = parser.parse_args()
    lines = ["| images | seconds | images/s | own memory, MiB | with the mapped file, MiB |", "|---|---|---|---|---|"]
    print("\n".join([where(), *lines]), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        screen = given.screen
        if screen is None:
            screen = folder / "screen"
            learnt = np.random.default_rng(1).integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8)
            recondite.fit(learnt, epochs=1, score="error").save(screen)
        for count in map(int, given.images.split(",")):
            write_noise(folder / "images.npy", count)
            row = measured(screen, folder / "images.npy", given.threads)
            rate = row["images"] / row["seconds"]
            memory = f"{row['own']:.0f} | {row['peak']:.0f}"
            lines.append(f"| {row['images']:,} | {row['seconds']:.1f} | {rate:.0f} | {memory} |")
            print(lines[-1], flush=True)
    if given.publish:
        publish("growth", "Growth (`python benchmarks/growth.py`)", [where() + ".", "", *lines])


if __name__ == "__main__":
    main()
