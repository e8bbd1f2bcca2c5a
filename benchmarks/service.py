"""The service against the library: throughput and latency at 1, 8 and 32 clients, and what one request costs on top.

    python benchmarks/service.py -o service-bench/ [--seconds 8] [--rounds 5]

Server, clients and library share this machine's cores; the clients are a process of their own. Library and service take
turns, round by round, so that both meet the same neighbours; rates and shares are medians over the rounds. The library
is given the same PNG files as bytes (it decodes them as the service does) and arrays in memory; the service also gets
16 images to a request. Beside the rates stand milliseconds of processor time an image, which neighbours change less.
"""

import argparse
import asyncio
import base64
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

MANY = 16
HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("service-bench"))
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
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


def measure(name, folder, images, arguments):
    screen = recondite.load(folder)
    screen.predict(images[:64])
    arrays = np.stack([screen.detector.preprocessing(image) for image in images])
    port = free_port()
    command = [sys.executable, "-c", "import sys; from recondite.cli import main; sys.exit(main())", "serve"]
    command += [f"{name}={folder}", "--port", str(port), "--no-page"]
    store = arguments.output / f"{name}.db"
    for old in arguments.output.glob(f"{name}.db*"):
        old.unlink()
    with (arguments.output / f"{name}.log").open("w") as log:
        server = subprocess.Popen([*command, "--store", f"sqlite:///{store}"], stderr=log)
    try:
        wait_until_ready(port)
        path, seconds = f"/v1/screens/{name}/predict", arguments.seconds
        several = [in_json(images[start : start + MANY]) for start in range(0, len(images), MANY)]
        run_clients(port, path, images, 8, 2.0)
        library_rows, array_rows, rows = [], [], {kind: [] for kind in (1, 8, 32, "8 x 16 images")}
        for _ in range(arguments.rounds):
            library_rows.append(library(screen, images, seconds))
            array_rows.append(library(screen, arrays, seconds / 2))
            for kind, found in rows.items():
                bodies, clients = (images, kind) if isinstance(kind, int) else (several, 8)
                before = processor_seconds(server.pid)
                latencies, elapsed, failed = run_clients(port, path, bodies, clients, seconds)
                count = len(latencies) * (1 if isinstance(kind, int) else MANY)
                spent = 1000 * (processor_seconds(server.pid) - before) / count
                found.append((count / elapsed, spent, latencies, failed))
        lone = one_by_one(screen, images, port, path)
    finally:
        server.terminate()
        server.wait()
    rates, spent = (np.median([row[place] for row in library_rows]) for place in (0, 1))
    print(f"\n{name}: library {rates:.0f} images/s, {spent:.2f} ms of processor time each, from PNG bytes")
    print(f"(from arrays {np.median([row[0] for row in array_rows]):.0f} images/s; rounds {arguments.rounds})")
    print("| clients | images/s | share of the library's rate (rounds) | processor ms | p50 | p95 | p99 ms | failed |")
    for kind, found in rows.items():
        shares = [one[0] / own[0] for one, own in zip(found, library_rows, strict=True)]
        p50, p95, p99 = np.percentile(np.concatenate([one[2] for one in found]), [50, 95, 99])
        print(
            f"| {kind} | {np.median([one[0] for one in found]):.0f} | {np.median(shares):.2f} "
            f"({min(shares):.2f} to {max(shares):.2f}) | {np.median([one[1] for one in found]):.2f} "
            f"| {p50:.1f} | {p95:.1f} | {p99:.1f} | {sum(one[3] for one in found)} |",
            flush=True,
        )
    for share in (10, 50):
        alone, one, network = np.percentile(lone, share, axis=0)
        added = np.percentile(lone[:, 1] - lone[:, 0] - lone[:, 2], share)
        print(
            f"{share} % of {len(lone)} lone requests took at most {one:.2f} ms; of the library {alone:.2f}; of empty "
            f"requests {network:.2f}; added at most {added:.2f}"
        )


def in_json(images):
    """Return a request of several images."""
    sent = [{"data": base64.b64encode(image).decode()} for image in images]
    return json.dumps({"images": sent}).encode()


def processor_seconds(process):
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def library(screen, images, seconds):
    """Return images a second, and milliseconds of processor time an image, of one `predict` after the other."""
    began, spent, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        count += len(screen.predict(images))
    return count / (time.perf_counter() - began), 1000 * (time.process_time() - spent) / count


def one_by_one(screen, images, port, path):
    """Return milliseconds (n, 3) of one image in the library, a request for it, and an empty request, by turns."""
    screen.predict(images[0])
    rows = []
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = link.makefile("rb")
        for image in images[:200]:
            head = HEAD.format(path=path, size=len(image), kind="image/png").encode()
            row = []
            for work in (
                lambda image=image: screen.predict(image),
                lambda head=head, image=image: asked(link, stream, head + image),
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


def run_clients(port, path, images, clients, seconds):
    """Return the milliseconds of each request, the seconds all took, and how many failed; from another process."""
    return CLIENTS.apply(clients_process, (port, path, images, clients, seconds))


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
                request = (
                    HEAD.format(
                        path=path, size=len(body), kind="image/png" if body[:1] == b"\x89" else "application/json"
                    ).encode()
                    + body
                )
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
    with multiprocessing.get_context("spawn").Pool(1) as CLIENTS:
        main()
