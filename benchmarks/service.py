"""The service against the library: throughput and latency at 1, 8 and 32 clients and at 70 % load.

    python benchmarks/service.py -o service-bench/        # five minutes at most on a machine with nothing else to do
    python benchmarks/service.py -o service-bench/ --workers 1 2 4        # one after the other; needs a core for each

The clients, one process, have the first core to themselves, where there are several; the service and the library share
the others, with as many threads, and take turns, round by round, so that both meet the same neighbours. Rates and
shares are medians over the rounds. The library is given the same files as bytes (it decodes them as the service does)
and arrays in memory; the service also gets 16 images to a request, and pixels as they are (binary tensors at /v2, to be
compared with the library's rate from arrays). Several workers want a core each beside that of the clients. Beside the
rates stand milliseconds of processor time an image, which neighbours change less. At 70 % load requests come at random
moments, at .7 of the rate of 32 clients, whether earlier ones are answered or not.
"""

import argparse
import asyncio
import base64
import io
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import machine
import numpy as np
import torch
from PIL import Image

import recondite

MANY = 16
HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n{more}\r\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("service-bench"))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--screens", nargs="+", choices=SCREENS, default=["digits-8px", "photographs-224px"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="processes of the service")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(machine.where())
    print(f"clients on core {CLIENT_CORES}, service and library on {SERVICE_CORES}")
    for name in arguments.screens:
        source, options = SCREENS[name]
        source = photographs(arguments.output / "photographs") if source == "photographs" else source
        folder = arguments.output / name
        if not folder.exists():
            recondite.fit(source, alpha=0.05, seed=0, **options).save(folder)
        for workers in arguments.workers:
            measure(name, folder, pictures(source), arguments, workers)


CORES = sorted(os.sched_getaffinity(0))
CLIENT_CORES, SERVICE_CORES = (CORES[:1], CORES[1:]) if len(CORES) > 1 else (CORES, CORES)
SCREENS = {
    "digits-8px": ("digits", {"detector": "autoencoder", "epochs": 5}),
    "photographs-224px": ("photographs", {"detector": "features"}),
    "photographs-32px": ("cifar10/train:cat", {"preset": "cats-dogs-screen", "epochs": 1}),
}


def photographs(folder):
    """Return a folder of 256 parts, 224 pixels wide, of the two photographs that scikit-learn brings, as JPEG."""
    from sklearn.datasets import load_sample_images

    draw = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for number in range(256):
        whole = load_sample_images().images[number % 2]
        top, left = (draw.integers(side - 223) for side in whole.shape[:2])
        Image.fromarray(whole[top : top + 224, left : left + 224]).save(folder / f"{number:03d}.jpg", quality=92)
    return str(folder)


def pictures(source):
    """Return at most 512 images, photographs as the files they are and others as PNG files."""
    if Path(source).is_dir():
        return [path.read_bytes() for path in sorted(Path(source).glob("*.jpg"))]
    from recondite.data.datasets import open_images
    from recondite.data.images import decode

    opened, found = open_images(source), []
    for item in list(opened.items)[:512]:
        planes = decode(item).planes
        pixels = planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0)
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG")
        found.append(stream.getvalue())
    return found


def measure(name, folder, images, arguments, workers):
    screen = recondite.load(folder)
    screen.predict(images[:64])
    arrays = np.stack([screen.detector.preprocessing(image) for image in images])
    port = free_port()
    command = [sys.executable, "-c", "import sys; from recondite.cli import main; sys.exit(main())", "serve"]
    command += [f"{name}={folder}", "--port", str(port), "--no-page", "--workers", str(workers)]
    store = arguments.output / f"{name}.db"
    for old in arguments.output.glob(f"{name}.db*"):
        old.unlink()
    with (arguments.output / f"{name}.log").open("w") as log:
        server = subprocess.Popen([*command, "--store", f"sqlite:///{store}"], stderr=log)
    try:
        wait_until_ready(port)
        path, seconds = f"/v1/screens/{name}/predict", arguments.seconds
        lone = [posted(path, image, "image/png") for image in images]
        starts, infer = range(0, len(images) - MANY + 1, MANY), f"/v2/models/{name}/infer"
        kinds = {
            "1": (1, lone, 1),
            "8": (8, lone, 1),
            "32": (32, lone, 1),
            f"8 x {MANY} images": (8, [in_json(path, images[start : start + MANY]) for start in starts], MANY),
            "32, pixels": (32, [in_tensor(infer, arrays[i : i + 1]) for i in range(len(arrays))], 1),
            f"8 x {MANY} images, pixels": (8, [in_tensor(infer, arrays[i : i + MANY]) for i in starts], MANY),
        }
        run_clients(port, lone, 8, 2.0)
        library_rows, array_rows, rows = [], [], {kind: [] for kind in kinds}
        for _ in range(arguments.rounds):
            library_rows.append(library(screen, images, seconds))
            array_rows.append(library(screen, arrays, seconds / 2))
            for kind, found in rows.items():
                clients, requests, at_once = kinds[kind]
                before = processor_seconds(server.pid)
                latencies, elapsed, failed = run_clients(port, requests, clients, seconds)
                count = len(latencies) * at_once
                spent = 1000 * (processor_seconds(server.pid) - before) / count
                found.append((count / elapsed, spent, latencies, failed))
        rate = 0.7 * np.median([one[0] for one in rows["32"]])
        loaded = [run_clients(port, lone, 0, seconds, rate) for _ in range(arguments.rounds)]
        times = one_by_one(screen, images, port, lone)
    finally:
        server.terminate()
        server.wait()
    rates, spent = (np.median([row[place] for row in library_rows]) for place in (0, 1))
    print(f"\n{name}, workers {workers}, rounds {arguments.rounds}: library {rates:.0f} images/s from bytes,")
    own = np.median([row[0] for row in array_rows])
    print(f"{spent:.2f} ms of processor time each, and {own:.0f} images/s from arrays")
    print("| clients | images/s | share of the library's rate (rounds) | processor ms | p50 | p95 | p99 ms | failed |")
    for kind, found in rows.items():
        own_rows = array_rows if "pixels" in kind else library_rows
        shares = [one[0] / own[0] for one, own in zip(found, own_rows, strict=True)]
        p50, p95, p99 = np.percentile(np.concatenate([one[2] for one in found]), [50, 95, 99])
        print(
            f"| {kind} | {np.median([one[0] for one in found]):.0f} | {np.median(shares):.2f} "
            f"({min(shares):.2f} to {max(shares):.2f}) | {np.median([one[1] for one in found]):.2f} "
            f"| {p50:.1f} | {p95:.1f} | {p99:.1f} | {sum(one[3] for one in found)} |",
            flush=True,
        )
    p50, p95, p99 = np.percentile(np.concatenate([one[0] for one in loaded]), [50, 95, 99])
    print(
        f"70 % load ({rate:.0f} images/s): p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f} ms, p99/p50 {p99 / p50:.1f}; "
        f"failed {sum(one[2] for one in loaded)}"
    )
    for share in (10, 50):
        alone, one, network = np.percentile(times, share, axis=0)
        added = np.percentile(times[:, 1] - times[:, 0] - times[:, 2], share)
        print(
            f"{share} % of {len(times)} lone requests took at most {one:.2f} ms; of the library {alone:.2f}; of empty "
            f"requests {network:.2f}; added at most {added:.2f}"
        )


def posted(path, body, kind, more=""):
    """Return a request as it goes over the wire."""
    return HEAD.format(path=path, size=len(body), kind=kind, more=more).encode() + body


def in_json(path, images):
    """Return a request of several images."""
    sent = [{"data": base64.b64encode(image).decode()} for image in images]
    return posted(path, json.dumps({"images": sent}).encode(), "application/json")


def in_tensor(path, rows):
    """Return a request of several images as one binary tensor, as is its answer."""
    content = rows.tobytes()
    tensor = {
        "name": "pixels",
        "datatype": "FP32",
        "shape": rows.shape,
        "parameters": {"binary_data_size": len(content)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    more = f"Inference-Header-Content-Length: {len(head)}\r\n"
    return posted(path, head + content, "application/octet-stream", more)


def processor_seconds(process):
    """Return the processor time that a process, and those that it has started, have used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    started = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return own + sum(processor_seconds(one) for one in started)


def library(screen, images, seconds):
    """Return images a second, and milliseconds of processor time an image, of one `predict` after the other."""
    began, spent, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        count += len(screen.predict(images))
    return count / (time.perf_counter() - began), 1000 * (time.process_time() - spent) / count


def one_by_one(screen, images, port, requests):
    """Return milliseconds (n, 3) of one image in the library, a request for it, and an empty request, by turns."""
    screen.predict(images[0])
    rows = []
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = link.makefile("rb")
        for image, request in zip(images[:200], requests, strict=False):
            row = []
            for work in (
                lambda image=image: screen.predict(image),
                lambda request=request: asked(link, stream, request),
                lambda: asked(link, stream, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            ):
                began = time.perf_counter()
                work()
                row.append(1000 * (time.perf_counter() - began))
            rows.append(row)
    return np.array(rows)


def asked(link, stream, request):
    link.sendall(request)
    size = 0
    while (line := stream.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        size = int(value) if name.lower() == b"content-length" else size
    stream.read(size)


def run_clients(port, requests, clients, seconds, rate=None):
    """Return the milliseconds of each request, the seconds all took, and how many failed; from another process.

    Args:
        clients: that each send one request after the other.
        rate: requests a second that come at random moments instead.
    """
    return CLIENTS.apply(clients_process, (port, requests, clients, seconds, rate))


def clients_process(port, requests, clients, seconds, rate):
    work = all_clients(port, requests, clients, seconds) if rate is None else arrivals(port, requests, rate, seconds)
    return asyncio.run(work)


async def all_clients(port, requests, clients, seconds):
    latencies, failed = [], 0
    end = time.perf_counter() + seconds

    async def client(number):
        nonlocal failed
        link = await asyncio.open_connection("127.0.0.1", port)
        turn = number
        while time.perf_counter() < end:
            began = time.perf_counter()
            failed += not await answered(link, requests[turn % len(requests)])
            latencies.append(1000 * (time.perf_counter() - began))
            turn += clients
        link[1].close()

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return latencies, time.perf_counter() - began, failed


async def arrivals(port, requests, rate, seconds):
    """As `all_clients`, but requests come at random moments, each over a connection that is free, and wait for none."""
    latencies, failed, free, running = [], 0, [], []
    draw = random.Random(0)

    async def one(due, request):
        nonlocal failed
        link = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
        failed += not await answered(link, request)
        latencies.append(1000 * (time.perf_counter() - due))
        free.append(link)

    began = due = time.perf_counter()
    while due < began + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        running.append(asyncio.create_task(one(due, requests[len(running) % len(requests)])))
        due += draw.expovariate(rate)
    await asyncio.gather(*running)
    for _, writer in free:
        writer.close()
    return latencies, time.perf_counter() - began, failed


async def answered(link, request):
    """Send a request, and return whether the answer is a verdict."""
    reader, writer = link
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]))
    return b" 200 " in head[:16]


def wait_until_ready(port):
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the service does not start")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1, os.sched_setaffinity, (0, CLIENT_CORES)) as CLIENTS:
        os.sched_setaffinity(0, SERVICE_CORES)  # what is started inherits it
        os.environ["OMP_NUM_THREADS"] = str(max(1, len(SERVICE_CORES)))
        torch.set_num_threads(max(1, len(SERVICE_CORES)))
        main()
