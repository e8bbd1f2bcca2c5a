"""Time and memory against the number of images: time should grow with it, memory should not.

    python benchmarks/growth.py [--images 1000,10000,100000] [--kinds array,folder,parquet,tar] [--screen SCREEN]

32 x 32 x 3 noise of each size, as an array or as PNG files in a folder, a Parquet table or a tar, is judged by its own
process, through `Screen.stream`; tars and tables piece by piece, as a worker of a cluster does. Without --screen, a
small autoencoder is fitted for it. Processor time is that of scoring, all threads. Memory is that of the whole process,
torch included: its own, looked at after every batch, and the peak with the pages of the file, which is mapped and which
the system takes back when it needs them. --publish puts the table into benchmarks/results/cluster.md.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from machine import publish, where
from PIL import Image

import recondite

JUDGE = """
import json, sys, time, torch, recondite
torch.set_num_threads(int(sys.argv[3]))
screen = recondite.load(sys.argv[1])
def mib(kind):
    # Not getrusage, which would begin with the peak of the process that started this one.
    lines = open('/proc/self/status').read().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024
pieces = [sys.argv[2]]
if sys.argv[2].endswith((".tar", ".parquet")):
    from recondite.cluster.sources import open_source
    source = open_source(sys.argv[2], screen.detector.shape)
    pieces = (source.images(piece) for piece in source.pieces(2000))
start, began, count, own = time.perf_counter(), time.process_time(), 0, 0
for piece in pieces:
    for part in screen.stream(piece):
        count += len(part)
        own = max(own, mib('RssAnon'))
facts = {"images": count, "seconds": time.perf_counter() - start, "processor": time.process_time() - began}
print(json.dumps({**facts, "own": own, "peak": mib('VmHWM')}))
"""


def noise(count):
    """Yield parts of at most 1,000 images of noise (n, 32, 32, 3)."""
    generator = np.random.default_rng(0)
    for start in range(0, count, 1000):
        yield generator.integers(0, 256, (min(1000, count - start), 32, 32, 3), dtype=np.uint8)


def write_array(path, count):
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, 32, 32, 3))
    for number, part in enumerate(noise(count)):
        images[1000 * number : 1000 * number + len(part)] = part
    images.flush()


def pictures(count):
    """Yield name and PNG bytes of each image."""
    for number, image in enumerate(image for part in noise(count) for image in part):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG", compress_level=1)
        yield f"{number:07}.png", stream.getvalue()


def write_folder(path, count):
    path.mkdir()
    for name, content in pictures(count):
        (path / name).write_bytes(content)


def write_parquet(path, count):
    import pyarrow
    import pyarrow.parquet

    schema, left = pyarrow.schema([("image", pyarrow.binary())]), pictures(count)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while some := [{"image": content} for _, content in islice(left, 1000)]:
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))


def write_tar(path, count):
    with tarfile.open(path, "w") as tar:
        for name, content in pictures(count):
            facts = tarfile.TarInfo(name)
            facts.size = len(content)
            tar.addfile(facts, io.BytesIO(content))


WRITE = {"array": write_array, "folder": write_folder, "parquet": write_parquet, "tar": write_tar}
NAMES = {"array": "images.npy", "folder": "images", "parquet": "images.parquet", "tar": "images.tar"}


def measured(screen, path, threads):
    command = [sys.executable, "-c", JUDGE, screen, path, str(threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="1000,10000,100000")
    parser.add_argument("--kinds", default="array,folder,parquet,tar")
    parser.add_argument("--screen", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--publish", action="store_true")
    given = parser.parse_args()
    lines = [
        "| source | images | seconds | processor time a 1,000 images | own memory, MiB | with mapped files, MiB |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join([where(), *lines]), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        screen = given.screen
        if screen is None:
            screen = folder / "screen"
            learnt = np.random.default_rng(1).integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8)
            recondite.fit(learnt, epochs=1, score="error").save(screen)
        for kind in given.kinds.split(","):
            for count in map(int, given.images.split(",")):
                with tempfile.TemporaryDirectory(dir=folder) as part:
                    path = Path(part) / NAMES[kind]
                    WRITE[kind](path, count)
                    row = measured(screen, path, given.threads)
                each = 1000 * row["processor"] / row["images"]
                memory = f"{row['own']:.0f} | {row['peak']:.0f}"
                lines.append(f"| {kind} | {row['images']:,} | {row['seconds']:.1f} | {each:.2f} s | {memory} |")
                print(lines[-1], flush=True)
    if given.publish:
        publish("cluster", "growth", "Growth (`python benchmarks/growth.py`)", [where() + ".", "", *lines])


if __name__ == "__main__":
    main()
