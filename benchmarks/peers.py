"""Recondite against alibi-detect and PyOD, on the same images of CIFAR-10, in one run, turn by turn.

    python benchmarks/peers.py [--setting quick] [--precision float32,bfloat16] [--only scoring,latency] [--publish]

Each peer gets an environment of its own, made once in the cache folder from the package index, and a process that
answers requests (peer_alibi.py, peer_pyod.py). The network against alibi-detect is its own example's (the preset
cifar10-vae), against PyOD dense layers of 512 and 128. Both sides get the same number of threads: torch.set_num_threads
here and in PyOD's process, TensorFlow's intra- and inter-op threads in the other, both parts of OpenVINO and
onnxruntime follow torch's. Every figure is a median over rounds in which all sides take turns; a ratio is made within
each round, and its smallest and largest are printed beside the median. The share of the peak compares the products of
the network (counted by torch) with what a plain matrix product of 2,048 reaches on the same threads, in the same round.

What depends most on the processor runs once more with torch and the oneDNN of torch, TensorFlow and OpenVINO held to
AVX2, but where the processor has no more (--no-avx2 leaves it out); its ratios are a column and diamonds of their own.
What computes in bfloat16 is left out where the library warns that it is slow. No task begins after --minutes,
15 by default; those left out are named. The full setting takes half an hour; tiny only shows that the script works.
--publish puts table and chart into benchmarks/results/speed.md and benchmarks/peers.png.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import get_args, get_type_hints

import matplotlib
import numpy as np
import torch
from machine import publish, where
from peer import Peer, environment
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import recondite
from recondite.data.catalog import cache_folder
from recondite.data.datasets import open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.errors import ReconditeError
from recondite.networks.hooks import evaluating
from recondite.networks.precision import TOO_SLOW, bfloat16_over_float32
from recondite.options import TrainingOptions
from recondite.screen.export import export_onnx, export_openvino
from recondite.screen.timing import instructions
from recondite.studies.masks import mask_size_study

HERE = Path(__file__).parent
# Too small to say anything: whether the script works.
TINY = {"rounds": 1, "steps": 2, "learnt": 1280, "epochs": 1, "scored": 64, "swept": 1, "filed": 16, "held": 500}
QUICK = {"rounds": 3, "steps": 15, "learnt": 2000, "epochs": 5, "scored": 512, "swept": 2, "filed": 256, "held": 4000}
FULL = {
    "rounds": 7,
    "steps": 40,
    "learnt": 10_000,
    "epochs": 5,
    "scored": 2048,
    "swept": 50,
    "filed": 2000,
    "held": 50_000,
}
SETTINGS = {"tiny": TINY, "quick": QUICK, "full": FULL}
SIZES, MASKS = list(range(2, 21, 2)), 20
# Settings of ours for the same network and loss; the error that they are to reach is the peer's.
RECIPE = {
    "schedule": "one-cycle",
    "learning_rate": 1e-3,
    "batch_size": 32,
    "validation": None,
    "picture_epochs": "none",
}
TRIED_EPOCHS = (1, 2, 3, 5)
# How a screen is asked to score in bfloat16; where `fit` does not take it, the row is left out and says so.
SCORING_IN_BFLOAT16 = {"scoring_precision": "bf16"}
TASKS = ("scoring", "latency", "training", "learning", "sweep", "folder", "memory", "start", "pyod")
BY_PROCESSOR = ("scoring", "latency", "training", "pyod")
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
WITHOUT_SCREENS = {"training", "learning", "pyod"}


def prepare(folder, sizes):
    """Write the images that both sides read, and return ours as float32 (N, 32, 32, 3) in [0, 1]."""
    made = {}
    for part, count in (("train", sizes["learnt"]), ("test", max(sizes["scored"], 1000))):
        source = open_images(f"cifar10/{part}").select(np.arange(count))
        batches = read_batches(source, Preprocessing(shape=(3, 32, 32)), 256)
        pixels = np.concatenate([batch.pixels for batch in batches]).transpose(0, 2, 3, 1)
        np.save(folder / f"{part}.npy", np.round(pixels * 255).astype(np.uint8))
        made[part] = np.load(folder / f"{part}.npy").astype(np.float32) / np.float32(255)
    pictures = np.load(folder / "test.npy")
    Image.fromarray(pictures[0]).save(folder / "one.png")
    for kind in ("jpg", "png"):
        (folder / kind).mkdir()
        for index in range(sizes["filed"]):
            picture = Image.fromarray(pictures[index % len(pictures)])
            picture.save(folder / kind / f"{index:06}.{kind}", **({"quality": 95} if kind == "jpg" else {}))
    return made


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_of(times, work):
    return float(np.median([seconds(work) for _ in range(times)]))


def peak(kind):
    """Return the products and sums a second of a plain matrix product, the best of some."""
    a, b = (torch.randn(2048, 2048).to(kind) for _ in range(2))
    torch.mm(a, b)
    return 2 * 2048**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(5))


def operations(detector):
    """Return the products and sums of scoring one image."""
    with evaluating(detector), FlopCounterMode(display=False) as counter:
        detector.measure(torch.zeros(1, *detector.shape), detector.options.score)
    return counter.get_total_flops()


def screens(images, folder, precisions):
    """Return the screens by name: torch's in each precision that there is, and the exported ones."""
    few = images["train"][:1280]
    made, skipped = {}, {}
    for precision in precisions:
        options = {} if precision == "float32" else SCORING_IN_BFLOAT16
        try:
            made[precision] = recondite.fit(few, preset="cifar10-vae", epochs=1, alpha=0.05, **options)
        except ReconditeError as error:
            skipped[precision] = str(error)
    made["float32"].save(folder / "screen")
    exports = {
        "onnx": lambda path: export_onnx(made["float32"], path),
        "openvino": lambda path: export_openvino(made["float32"], path),
        "openvino-int8": lambda path: export_openvino(
            made["float32"], path, int8=images["test"][:400], always_int8=True
        ),
    }
    for name, export in exports.items():
        made[name] = recondite.load(export(folder / name))
    return made, skipped


class Rounds:
    """Collects the seconds of each side of each task, round by round.

    Args:
        less: that smaller numbers are better, as seconds are.
    """

    def __init__(self):
        self.tasks = {}

    def add(self, task, peer, ours, unit, **others):
        """Add one round: the peer's and our number, in the same unit, and further numbers of it."""
        row = self.tasks.setdefault(task, {"unit": unit, "peer": [], "ours": [], **{name: [] for name in others}})
        for name, value in {"peer": peer, "ours": ours, **others}.items():
            row[name].append(value)
        ratio = f"; {peer / ours:.2f} times" if peer else ""
        print(f"  {task}: peer {peer or float('nan'):.4g}, ours {ours:.4g} {unit}{ratio}", flush=True)


def scoring(rounds, alibi, made, images, sizes, _folder):
    x, count = images["test"][: sizes["scored"]], sizes["scored"]
    work = operations(made["float32"].detector)
    batches = (64, 256)
    for batch in batches:
        alibi("score", count=count, batch=batch)
    for screen in made.values():
        screen.predict(x[:128])
    for _ in range(sizes["rounds"]):
        peaks = {kind: peak(getattr(torch, kind)) for kind in ("float32", "bfloat16") if kind in made}
        peer = min(alibi("score", count=count, batch=batch)["seconds"] for batch in batches)
        for name, screen in made.items():
            ours = seconds(lambda screen=screen: screen.predict(x))
            share = {"share": work * count / ours / peaks[name]} if name in peaks else {}
            rounds.add(f"batch scoring, {name}", peer / count * 1e3, ours / count * 1e3, "ms an image", **share)


def latency(rounds, alibi, made, images, sizes, _folder):
    one = images["test"][:1]
    alibi("one", times=5)
    for screen in made.values():
        screen.predict(one)
    for _ in range(sizes["rounds"]):
        peer = alibi("one", times=20)["seconds"]
        for name, screen in made.items():
            ours = median_of(20, lambda screen=screen: screen.predict(one))
            rounds.add(f"one image, {name}", peer * 1e3, ours * 1e3, "ms")


def training(rounds, alibi, _made, images, sizes, _folder):
    steps = sizes["steps"]
    x = images["train"][: 64 * steps]
    preset = recondite.PRESETS["cifar10-vae"].options

    def learn(part, precision):
        given = {name: preset[name] for name in ("batch_size", "learning_rate", "schedule")}
        learners[precision].fit(part, validation=None, epochs=1, precision=precision, **given)

    kinds = get_args(get_type_hints(TrainingOptions)["precision"]) if sizes["bfloat16"] else ("fp32",)
    learners = {kind: make_detector() for kind in kinds}
    for kind in kinds:
        learn(x[:64], kind)
    for _ in range(sizes["rounds"]):
        peer = alibi("train", steps=steps)["seconds"]
        for kind in kinds:
            ours = seconds(lambda kind=kind: learn(x, kind))
            rounds.add(f"training step of 64, {kind}", peer / steps * 1e3, ours / steps * 1e3, "ms")


def make_detector(**changes):
    """Return a detector of the preset, not fitted, with other options if any are given."""
    preset = recondite.PRESETS["cifar10-vae"]
    of_training = get_type_hints(TrainingOptions)
    own = {name: value for name, value in preset.options.items() if name not in of_training}
    return recondite.build("vae", image_shape=(3, 32, 32), **own | changes)


def learning(rounds, alibi, _made, images, sizes, _folder):
    """Whole fits, each with its schedule, until one reaches the peer's error; only that one counts."""
    x, fresh = images["train"][: sizes["learnt"]], images["test"][:1000]
    peer = alibi("learn", images_learnt=sizes["learnt"], epochs=sizes["epochs"])
    print(f"  the peer's error after {sizes['epochs']} epochs: {peer['error']:.5f}", flush=True)
    for epochs in TRIED_EPOCHS:
        detector = make_detector(initial_weights="he")
        ours = seconds(lambda detector=detector, epochs=epochs: detector.fit(x, epochs=epochs, **RECIPE))
        error = float(detector.score(fresh).instance_score.mean())
        print(f"  ours after {epochs} epochs: {error:.5f} in {ours:.1f} s", flush=True)
        if error <= peer["error"]:
            break
    reached = error <= peer["error"]
    task = "time to its error, by a recipe of ours" + ("" if reached else " (NOT reached)")
    rounds.add(task, peer["seconds"], ours, "s", peer_error=peer["error"], our_error=error)


def sweep(rounds, alibi, made, images, sizes, folder):
    x = images["test"][: sizes["swept"]]
    alibi("sweep", count=1, sizes=[2], masks=MASKS)
    for _ in range(min(sizes["rounds"], 3)):
        peer = alibi("sweep", count=len(x), sizes=SIZES, masks=MASKS)["seconds"]
        for name in ("float32", "openvino-int8"):
            ours = seconds(
                lambda name=name: mask_size_study(
                    made[name], x, folder / f"sweep-{name}", sizes=SIZES, masks=MASKS, count=len(x)
                )
            )
            rounds.add(f"mask sweep {len(x)} x 10 x 20, {name}", peer, ours, "s")


def folder_scoring(rounds, alibi, made, _images, sizes, folder):
    for _ in range(sizes["rounds"]):
        for kind in ("jpg", "png"):
            peer = alibi("folder", kind=kind, batch=64)["seconds"]
            for name in ("float32", "openvino-int8"):
                ours = seconds(lambda name=name, kind=kind: made[name].predict(folder / kind))
                count = sizes["filed"]
                rounds.add(f"folder of {kind}, {name}", peer / count * 1e3, ours / count * 1e3, "ms an image")


def memory(rounds, _alibi, _made, _images, sizes, folder):
    """Peaks of processes of their own, which score more images than the others."""
    held = sizes["held"]
    many = np.lib.format.open_memmap(folder / "many" / "test.npy", mode="w+", dtype=np.uint8, shape=(held, 32, 32, 3))
    part = np.load(folder / "test.npy")
    for start in range(0, held, len(part)):
        many[start : start + len(part)] = part[: held - start]
    many.flush()
    with Peer("alibi", folder / "many", torch.get_num_threads()) as alibi:
        peer = alibi("memory", count=held, batch=64)["mib"]
    code = (
        "import sys, torch, recondite\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "for part in recondite.load(sys.argv[1]).stream(sys.argv[2]): pass\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(int(next(line for line in lines if line.startswith('VmHWM')).split()[1]) / 1024)"
    )
    for name in ("screen", "openvino-int8"):
        command = [sys.executable, "-c", code, folder / name, folder / "many" / "test.npy"]
        ours = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rounds.add(f"peak memory, {held:,} images, {'float32' if name == 'screen' else name}", peer, ours, "MiB")


def start(rounds, alibi, _made, _images, sizes, folder):
    """Wall time of whole processes."""
    alibi("save")
    python, own = environment("alibi"), Path(sys.executable).parent / "recondite"
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": ""}
    quiet.pop("PYTHONDONTWRITEBYTECODE", None)  # what pip installed is compiled, and so is a package of ours

    def run(*command, text=None):
        return seconds(lambda: subprocess.run(command, check=True, capture_output=True, env=quiet, input=text))

    cold = json.dumps({"do": "cold_start"}).encode() + b"\n"
    threads = str(torch.get_num_threads())
    for number in range(min(sizes["rounds"], 3) + 1):
        imported = run(python, "-c", "import alibi_detect.od"), run(sys.executable, "-c", "import recondite")
        loaded = run(sys.executable, "-c", "import recondite; recondite.Screen")
        helped = run(own, "--help")
        peer = run(python, HERE / "peer_alibi.py", folder, threads, text=cold)
        ours = {
            name: run(own, "predict", folder / name, folder / "one.png", "-o", folder / "cold.csv")
            for name in ("screen", "onnx", "openvino-int8")
        }
        if number:  # the first round fills the caches of the disk
            rounds.add("import", *imported, "s")
            rounds.add("import with Screen", imported[0], loaded, "s")
            rounds.add("recondite --help", 0, helped, "s")
            for name, value in ours.items():
                rounds.add(f"cold start of predict, {'float32' if name == 'screen' else name}", peer, value, "s")


def pyod(rounds, _alibi, _made, images, sizes, folder):
    """Dense layers of 512 and 128 on flattened images, as PyOD's autoencoder has them."""
    from torch import nn

    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3072, 512), nn.ReLU(), nn.Linear(512, 128), nn.ReLU())
    decoder = nn.Sequential(nn.Linear(128, 512), nn.ReLU(), nn.Linear(512, 3072), nn.Unflatten(1, (3, 32, 32)))
    given = {"encoder": encoder, "decoder": decoder, "latent_size": 128, "score": "error"}
    screen = recondite.fit(images["train"][:640], detector="autoencoder", epochs=1, alpha=0.05, **given)
    x, count = images["test"][: sizes["scored"]], sizes["scored"]
    screen.predict(x)
    with Peer("pyod", folder, torch.get_num_threads()) as peer:
        peer("score", count=count)
        for _ in range(sizes["rounds"]):
            theirs = peer("score", count=count)["seconds"]
            ours = seconds(lambda: screen.predict(x))
            rounds.add("PyOD: batch scoring", theirs / count * 1e3, ours / count * 1e3, "ms an image")
            theirs = peer("one", times=20)["seconds"]
            rounds.add("PyOD: one image", theirs * 1e3, median_of(20, lambda: screen.predict(x[:1])) * 1e3, "ms")


def ratio_of(row):
    """Return the ratios of a task's rounds in words; nothing where the peer has no number."""
    ratios = np.array(row["peer"]) / np.array(row["ours"])
    return f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})" if np.any(row["peer"]) else ""


def table(tasks, held):
    """Return the results, and the ratios of those held to AVX2, as lines of Markdown."""
    lines = [
        "| work | the peer | Recondite | ratio (smallest to largest) | held to AVX2 | share of the peak |",
        "|---|---|---|---|---|---|",
    ]
    for task, row in tasks.items():
        peer, ours = np.array(row["peer"]), np.array(row["ours"])
        share = f"{np.median(row['share']):.2f}" if "share" in row else ""
        theirs = f"{np.median(peer):.3g} {row['unit']}" if peer.any() else ""
        by_avx2 = ratio_of(held[task]) if task in held else ""
        lines.append(
            f"| {task} | {theirs} | {np.median(ours):.3g} {row['unit']} | {ratio_of(row)} | {by_avx2} | {share} |"
        )
    return lines


def chart(tasks, held, path):
    """Draw the ratios, with their smallest and largest and those held to AVX2, on an axis that doubles."""
    import matplotlib.pyplot as plt

    rows = {task: np.array(row["peer"]) / np.array(row["ours"]) for task, row in tasks.items() if np.any(row["peer"])}
    figure, ax = plt.subplots(figsize=(8, 0.32 * len(rows) + 1.2), layout="constrained")
    for place, (task, ratios) in enumerate(reversed(rows.items())):
        middle = np.median(ratios)
        colour = "#2a6f97" if middle >= 1 else "#c1553b"
        ax.barh(place, middle - 1, left=1, color=colour, height=0.6)
        ax.plot([ratios.min(), ratios.max()], [place, place], color="black", linewidth=1)
        if task in held:
            ax.plot(np.median(np.array(held[task]["peer"]) / held[task]["ours"]), place, "D", color="#d9a441", zorder=3)
        ax.annotate(
            f"{middle:.1f}", (max(middle, ratios.max(), 1), place), (4, 0), textcoords="offset points", va="center"
        )
    ax.set_yticks(range(len(rows)), list(reversed(rows)))
    ax.set_xscale("log", base=2)
    ax.set_xlim(min(0.5, *(r.min() for r in rows.values())), 1.6 * max(2, *(r.max() for r in rows.values())))
    ax.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set_xlabel(
        "times faster, or smaller, than the peer\n(median; lines from the smallest to the largest round;\n"
        "diamonds: held to AVX2)"
    )
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


WORK = dict(zip(TASKS, (scoring, latency, training, learning, sweep, folder_scoring, memory, start, pyod), strict=True))


def held_to_avx2(given, chosen, began):
    """Run tasks in a process whose libraries are held to AVX2, and return their rounds; none where no time is left."""
    left = given.minutes - (time.monotonic() - began) / 60
    if not chosen or left <= 0 or instructions() == "AVX2":  # this very processor is one
        return {}
    output = given.output / "avx2"
    own = ["--setting", given.setting, "--precision", "float32", "--threads", str(given.threads), "--no-avx2"]
    own += ["--only", ",".join(chosen), "--minutes", f"{left:g}", "-o", str(output)]
    own += ["--rounds", str(given.rounds)] if given.rounds else []
    print("held to AVX2", flush=True)
    subprocess.run([sys.executable, __file__, *own], env={**os.environ, **AVX2}, check=True)
    return json.loads((output / "peers.json").read_text())["tasks"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="quick")
    parser.add_argument("--precision", default="float32,bfloat16", help="of torch's screens; float32 is always there")
    parser.add_argument("--only", default=",".join(TASKS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, help="instead of the setting's own")
    parser.add_argument("--minutes", type=float, default=15, help="after which no task begins")
    parser.add_argument("--no-avx2", action="store_true", help="leave out the second run, held to AVX2")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("-o", "--output", type=Path, default=cache_folder() / "peers-results")
    given = parser.parse_args()
    chosen = given.only.split(",")
    if not set(chosen) <= set(TASKS):
        parser.error(f"--only takes {', '.join(TASKS)}")
    matplotlib.use("Agg")
    torch.set_num_threads(given.threads)
    sizes, began = dict(SETTINGS[given.setting]), time.monotonic()
    sizes["rounds"] = given.rounds or sizes["rounds"]
    print(where(), flush=True)
    precisions = list(dict.fromkeys(["float32", *given.precision.split(",")]))
    sizes["bfloat16"] = bfloat16_over_float32() <= TOO_SLOW
    if not sizes["bfloat16"]:
        print(f"no bfloat16, which takes {bfloat16_over_float32():.0f} times as long as float32 here", flush=True)
        precisions = ["float32"]
    rounds = Rounds()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "many").mkdir()
        images = prepare(folder, sizes)
        alibi = stack.enter_context(Peer("alibi", folder, given.threads))
        made, skipped = screens(images, folder, precisions) if set(chosen) - WITHOUT_SCREENS else ({}, {})
        for name, reason in skipped.items():
            print(f"no {name}: {reason}", flush=True)
        for task in chosen:
            if time.monotonic() - began > 60 * given.minutes:
                print(f"left out, as {given.minutes:g} minutes are over: {task}", flush=True)
                continue
            print(f"{task}, after {time.monotonic() - began:.0f} s", flush=True)
            WORK[task](rounds, alibi, made, images, sizes, folder)
        versions = f"alibi-detect 0.13.0, TensorFlow {alibi.facts['tensorflow']}, PyOD 3.6.7"
    held = {} if given.no_avx2 else held_to_avx2(given, [task for task in chosen if task in BY_PROCESSOR], began)
    facts = [
        f"{where()}; {versions}; {given.setting} setting, {sizes['rounds']} rounds, "
        f"{time.monotonic() - began:.0f} s in all; load of the machine at the end {os.getloadavg()[0]:.1f}."
    ]
    lines = table(rounds.tasks, held)
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "peers.json").write_text(
        json.dumps({"facts": facts, "tasks": rounds.tasks, "held to AVX2": held}, indent=1)
    )
    (given.output / "peers.md").write_text("\n".join([*facts, "", *lines, ""]))
    chart(rounds.tasks, held, given.output / "peers.png")
    print("\n".join(["", *facts, "", *lines]), flush=True)
    if given.publish:
        (HERE / "peers.png").write_bytes((given.output / "peers.png").read_bytes())
        title = "Against the peers (`python benchmarks/peers.py`)"
        publish("speed", "peers", title, [*facts, "", *lines, "", "![Ratios](../peers.png)"])


if __name__ == "__main__":
    main()
