"""The service against the library: throughput and latency at 1, 8 and 32 clients, and what one request costs on top.

    python benchmarks/service.py -o service-bench/

Server, clients and library share this machine's cores; the clients are a process of their own. The library is
measured before and after, in the same run.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import machine
import numpy as np
from PIL import Image

import recondite

HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: {size}\r\n\r\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("service-bench"))
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(machine.where())
    for name, (source, options) in SCREENS.items():
        folder = arguments.output / name
        if not folder.exists():
            recondite.fit(source, alpha=0.05, seed=0, **options).save(folder)
        measure(name, folder, pictures(source), arguments)


SCREENS = {
    "digits-8px": ("digits", {"detector": "autoencoder", "epochs": 5}),
    "photographs-32px": ("cifar10/train:cat", {"preset": "cats-dogs-screen", "epochs": 1}),
}


def pictures(source):
    """Return 512 images as PNG files."""
    from recondite.datasets import open_images
    from recondite.images import decode

    opened, found = open_images(source), []
    for item in list(opened.items)[:512]:
        planes = decode(item).planes
        pixels = planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0)
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG")
        found.append(stream.getvalue())
    return found


def measure(name, folder, images, arguments):
    screen = recondite.load(folder)
    screen.predict(images[:64])
    rates, alone = [library(screen, images, arguments.seconds)], single(screen, images)
    port = free_port()
    log = (arguments.output / f"{name}.log").open("w")
    command = [
        sys.executable,
        "-c",
        "import sys; from recondite.cli import main; sys.exit(main())",
        "serve",
        f"{name}={folder}",
        "--port",
        str(port),
        "--no-page",
    ]
    store = arguments.output / f"{name}.db"
    for old in arguments.output.glob(f"{name}.db*"):
        old.unlink()
    server = subprocess.Popen([*command, "--store", f"sqlite:///{store}"], stderr=log)
    try:
        wait_until_ready(port)
        path = f"/v1/screens/{name}/predict"
        run_clients(port, path, images, 8, 2.0)
        rows = [(clients, *run_clients(port, path, images, clients, arguments.seconds)) for clients in (1, 8, 32)]
        nothing = run_clients(port, "/healthz", None, 1, 2.0)
    finally:
        server.terminate()
        server.wait()
    rates.append(library(screen, images, arguments.seconds))
    rate = float(np.mean(rates))
    print(
        f"\n{name}: library {rate:.0f} images/s ({', '.join(f'{one:.0f}' for one in rates)}); one image {alone:.2f} ms"
    )
    for clients, latencies, elapsed, failed in rows:
        p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
        answered = len(latencies) / elapsed
        print(f"| {clients} | {answered:.0f} | {answered / rate:.2f} | {p50:.1f} | {p95:.1f} | {p99:.1f} | {failed} |")
    one, network = np.percentile(rows[0][1], 50), np.percentile(nothing[0], 50)
    print(f"one request {one:.2f} ms = library {alone:.2f} + empty request {network:.2f} + {one - alone - network:.2f}")


def library(screen, images, seconds):
    """Return images a second of one `predict` call after the other over 512 images."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        count += len(screen.predict(images))
    return count / (time.perf_counter() - began)


def single(screen, images):
    """Return the median milliseconds of `predict` on one image."""
    times = []
    for image in images[:60]:
        began = time.perf_counter()
        screen.predict(image)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))


def run_clients(port, path, images, clients, seconds):
    """Return the milliseconds of each request, the seconds all took, and how many failed; from another process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(clients_process, (port, path, images, clients, seconds))


def clients_process(port, path, images, clients, seconds):
    return asyncio.run(all_clients(port, path, images, clients, seconds))


async def all_clients(port, path, images, clients, seconds):
    latencies, failed = [], 0
    end = time.perf_counter() + seconds

    async def client(number):
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = number
        while time.perf_counter() < end:
            if images is None:
                request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
            else:
                body = images[turn % len(images)]
                request = HEAD.format(path=path, size=len(body)).encode() + body
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            latencies.append(1000 * (time.perf_counter() - began))
            failed += b" 200 " not in head[:16]
            turn += clients
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return latencies, time.perf_counter() - began, failed


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
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    main()
