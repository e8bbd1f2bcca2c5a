"""Peak memory of fitting `features` against the number of images, which it should not depend on.

    python benchmarks/fit_memory.py [--images 500,2500,20000] [--side 96] [--seen 64] [--threads 1]

Folders of JPEG files of noise on a coarse pattern, each fitted by a process of its own, default methods of parts.
Memory is that of the process, torch included: its own, looked at ten times a second, and the peak with the pages of
mapped files, which the system takes back when it needs them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import where
from PIL import Image

FIT = """
import json, sys, threading, time, torch, recondite
torch.set_num_threads(int(sys.argv[4]))
def mib(kind):
    # Not getrusage, which would begin with the peak of the process that started this one.
    lines = open('/proc/self/status').read().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024
own, done = [0], threading.Event()
def look():
    while not done.wait(0.1):
        own.append(mib('RssAnon'))
threading.Thread(target=look, daemon=True).start()
start = time.process_time()
side = int(sys.argv[2])
recondite.fit(sys.argv[1], detector="features", methods="mahalanobis,padim", image_size=side, side=int(sys.argv[3]))
done.set()
print(json.dumps({"seconds": time.process_time() - start, "own": max(own), "peak": mib('VmHWM')}))
"""


def write_files(folder: Path, first: int, count: int, side: int) -> None:
    for number in range(first, count):
        generator = np.random.default_rng(number)
        coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8).repeat(-(-side // 6), 0).repeat(-(-side // 6), 1)
        noisy = coarse[:side, :side] + generator.normal(0, 12, (side, side, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06d}.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="500,2500,20000")
    parser.add_argument("--side", type=int, default=96, help="of the images, in pixels")
    parser.add_argument("--seen", type=int, default=64, help="pixels that the backbone sees")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print(where())
    print("| images | processor s | own memory, MiB | with mapped files, MiB |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        written = 0
        for count in sorted(map(int, given.images.split(","))):
            write_files(Path(name), written, count, given.side)
            written = count
            command = [sys.executable, "-c", FIT, name, str(given.side), str(given.seen), str(given.threads)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"| {count:,} | {row['seconds']:.0f} | {row['own']:.0f} | {row['peak']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
