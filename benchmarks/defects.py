"""Recondite's default against anomalib's PatchCore and PaDiM, on sets of defects, in one run.

    python benchmarks/defects.py FOLDER [--sets bottle,screw,kolektor] [--only quality|speed] [--quick] [--publish]

FOLDER holds sets laid out as MVTec AD: train/good, test/DEFECT, ground_truth/DEFECT where there are masks. anomalib
gets an environment of its own, made once in the cache folder from the package index, and each of its models a process
(peer_anomalib.py).

Quality: our frozen EfficientNet-Lite0 (the same weights, layers block5 and block11) handed to anomalib, at its size of
256 x 256 and at ours; beside it `recondite fit` with no detector named, by the measures of `recondite bench defects`. A
coreset of `--coreset` of all patches that is not done within `--fit-limit` seconds is tried again with a tenth of that.

Speed: anomalib's own ResNet-18 and WideResNet-50, at random weights, since none can be downloaded; time does not depend
on them. 200 images of 224 x 224 pixels of the first set, in memory, each changed by a grey level here and there so that
no two are alike: fitting them, images/s (anomalib's best of three batch sizes), one image, peak memory of the process.
Both sides take turns; a ratio is made within each round, and its smallest and largest are printed beside the median.
PatchCore scores with a bank of a tenth of 100 images' patches drawn at random: its coreset takes long, and chooses
which patches, not how many. Its PaDiM inverts matrices on one thread (see peer_anomalib.py). Our figures hold what
anomalib's do not: calibration in the fit, p-value and verdict in the score.

Results are kept in the work folder as results.json and results.md; what is there is not measured again.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from machine import publish, where
from peer import Peer
from PIL import Image

from recondite.data.catalog import cache_folder
from recondite.data.datasets import open_images, read_batches
from recondite.data.files import atomic_file
from recondite.data.images import Preprocessing
from recondite.data.layouts import masks_of, sets_in
from recondite.data.sample import sampled
from recondite.detectors.features import Features
from recondite.statistics.localisation import per_region_overlap, pixel_auroc
from recondite.statistics.metrics import auroc
from recondite.studies.training.defect_sets import bench_defects

METHODS, NETWORKS = ("patchcore", "padim"), ("resnet18", "wide_resnet50_2")
THEIR_SIZE, SPEED_SIZE, BATCHES = (256, 256), (224, 224), (1, 8, 32)
BANK_IMAGES, BANK_SHARE = 100, 0.1
FULL = {
    "learnt": None,
    "fitted": 200,
    "scored": 200,
    "rounds": 5,
    "times": 20,
    "networks": NETWORKS,
    "sizes": 2,
    "sets": 99,
}
QUICK = {
    "learnt": 40,
    "fitted": 160,
    "scored": 16,
    "rounds": 2,
    "times": 5,
    "networks": NETWORKS[:1],
    "sizes": 1,
    "sets": 1,
}


class Results:
    """Rows by name, kept in a file as soon as each is there."""

    def __init__(self, path):
        self.path = path
        self.rows = json.loads(path.read_text()) if path.is_file() else {}

    def get(self, name, make):
        """Return the row of that name; made, if it is not there."""
        if name not in self.rows:
            print(f"{name} ...", flush=True)
            self.rows[name] = {**make(), "where": where(), "load": round(os.getloadavg()[0], 1)}
            with atomic_file(self.path) as temporary:
                temporary.write_text(json.dumps(self.rows, indent=1))
            shown = {key: value for key, value in self.rows[name].items() if key not in ("where", "rounds")}
            print(f"{name}: {shown}", flush=True)
        return self.rows[name]


def read(root, role, size):
    """Return the images of a role, uint8 (N, H, W, 3), and their names."""
    source = open_images(str(root), role=role)
    batches = list(read_batches(source, Preprocessing(shape=(3, *size)), 64))
    pixels = np.concatenate([batch.pixels[batch.good] for batch in batches])
    names = [name for batch in batches for name, good in zip(batch.ids, batch.good, strict=True) if good]
    return np.round(pixels * 255).astype(np.uint8).transpose(0, 2, 3, 1), names


def mask_of(truth, name, size):
    """Return the mask of an image, bool (H, W)."""
    path = Path(name)
    file = next(f for end in ("_mask", "") if (f := truth / path.parent.name / f"{path.stem}{end}.png").is_file())
    return np.asarray(Image.open(file).convert("L").resize(size[::-1], Image.Resampling.NEAREST)) > 0


def measured(found, names, truth):
    """Return the measures of anomalib's scores and maps of inliers and outliers."""
    row = {"auroc": auroc(found["inliers"]["scores"], found["outliers"]["scores"]), "pixel_auroc": None, "au_pro": None}
    if truth is not None:
        maps = np.concatenate([found[role]["maps"] for role in ("inliers", "outliers")])
        masks = np.zeros(maps.shape, dtype=bool)
        masks[len(found["inliers"]["maps"]) :] = [mask_of(truth, name, maps.shape[1:]) for name in names]
        row |= {"pixel_auroc": pixel_auroc(maps, masks), "au_pro": per_region_overlap(maps, masks)}
    return row


def quality_of_anomalib(root, method, size, given, sizes):
    """Return a row of one of anomalib's methods on our backbone."""
    with tempfile.TemporaryDirectory() as name:
        folder, names = Path(name), {}
        for role in ("fit", "inliers", "outliers"):
            pixels, names[role] = read(root, role, size)
            np.save(folder / f"{role}.npy", pixels[: sizes["learnt"]] if role == "fit" else pixels)
        try:
            with Peer("anomalib", folder, given.threads, method, "lite0", given.memory_limit) as peer:
                tried = (given.coreset, given.coreset / 10) if method == "patchcore" else (None,)
                for coreset in tried:
                    seconds = peer("fit", name="fit", coreset=coreset, limit=given.fit_limit)["seconds"]
                    if seconds is not None:
                        break
                else:
                    return {"stopped": f"not fitted after {given.fit_limit} s"}
                for role in ("inliers", "outliers"):
                    peer("score", name=role, to=role)
        except SystemExit:
            return {"stopped": "the process ended: " + last_line(folder / "anomalib.log")}
        found = {role: dict(np.load(folder / f"{role}.npz")) for role in ("inliers", "outliers")}
    measures = measured(found, names["outliers"], masks_of(root))
    return {**measures, "fit_seconds": seconds, "coreset": coreset, "images": len(names["fit"][: sizes["learnt"]])}


def last_line(path):
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


def quality(results, roots, given, sizes):
    """Measure detection on every set, ours and theirs."""
    for root in roots:
        results.get(f"quality {root.name} recondite", lambda root=root: ours_on(root, given))
        height, width = sampled(open_images(str(root), role="fit"))[0].size
        for size in (THEIR_SIZE, Features.image_size(height, width))[: sizes["sizes"]]:
            for method in METHODS:
                name = f"quality {root.name} {method} {size[0]}x{size[1]}"
                results.get(
                    name,
                    lambda root=root, method=method, size=size: quality_of_anomalib(root, method, size, given, sizes),
                )


def ours_on(root, given):
    row = bench_defects([root], given.output / "ours", ["auto"], threads=given.threads)[0]
    if row["error"]:
        return {"stopped": row["error"]}
    return {
        **{name: row[name] for name in ("chosen", "auroc", "pixel_auroc", "fit_seconds", "images")},
        "au_pro": row["au_pro_30"],
    }


def speed(results, roots, given, sizes):
    """Measure time and memory of each of anomalib's models and ours, by turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels, _ = read(roots[0], "fit", SPEED_SIZE)
        generator = np.random.default_rng(0)
        some = pixels[np.arange(sizes["fitted"]) % len(pixels)].astype(np.int16)
        some += generator.integers(-1, 2, some.shape, dtype=np.int16)
        some = some.clip(0, 255).astype(np.uint8)
        np.save(folder / "speed.npy", some)
        np.save(folder / "scored.npy", some[: sizes["scored"]])
        for network in sizes["networks"]:
            for method in METHODS:
                results.get(
                    f"speed {method} {network}",
                    lambda method=method, network=network: speed_against(folder, method, network, given, sizes),
                )


def speed_against(folder, method, network, given, sizes):
    """Return a row: rounds of one of anomalib's models and of our default, and what each took to fit."""
    arguments = (method, network, given.memory_limit)
    with Peer("recondite", folder, given.threads) as ours, Peer("anomalib", folder, given.threads, *arguments) as peer:
        row = {"ours": ours("fit", name="speed", alpha=0.05), "peer": {}}
        try:
            row["peer"] = peer("fit", name="speed", coreset=given.coreset, limit=given.fit_limit)
            if method == "patchcore":
                # Fitting keeps more than scoring does; a bank like this, and a process of its own, in any case.
                row["fit_mb"] = peer("memory")["mb"]
                peer.__exit__()
                peer = Peer("anomalib", folder, given.threads, *arguments)
                row |= peer("draw_bank", name="speed", count=BANK_IMAGES, share=BANK_SHARE)
            row["rounds"] = [turn(ours, peer, sizes) for _ in range(sizes["rounds"])]
            row["peer"] |= peer("memory")
        except SystemExit:
            return {**row, "stopped": "the process ended: " + last_line(folder / "anomalib.log")}
        row["ours"] |= ours("memory")
    return row


def turn(ours, peer, sizes):
    """Return one round: images/s and seconds of one image, theirs and ours."""
    count, times = sizes["scored"], sizes["times"]
    theirs = {batch: peer("batches", name="scored", batch=batch)["seconds"] for batch in BATCHES}
    best = min(theirs, key=theirs.get)
    return {
        "batch": best,
        "peer_rate": count / theirs[best],
        "our_rate": count / ours("batches", name="scored")["seconds"],
        "peer_one": peer("one", name="scored", times=times)["seconds"],
        "our_one": ours("one", name="scored", times=times)["seconds"],
    }


def quality_table(rows):
    """Return the lines of the table of detection."""
    lines = [
        "| set | what | image AUROC | pixel AUROC | AU-PRO (.3) | fit, s |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        _, root, *what = name.split()
        if "stopped" in row:
            lines.append(f"| {root} | {' '.join(what)} | {row['stopped']} | | | |")
            continue
        said = f"**Recondite**, {row['chosen']}" if "chosen" in row else f"anomalib {what[0]}, {what[1]}"
        said += f", coreset {row['coreset']:g}" if row.get("coreset") else ""
        measures = " | ".join("" if row[m] is None else f"{row[m]:.3f}" for m in ("auroc", "pixel_auroc", "au_pro"))
        lines.append(f"| {root} | {said} | {measures} | {row['fit_seconds']:.1f} |")
    return lines


def speed_table(rows, given):
    """Return the lines of the table of time and memory; ratios say how many times better ours is."""
    lines = [
        "| anomalib's | images/s, ratio | one image, ratio | fit, ratio | peak memory, ratio |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        said = " ".join(name.split()[1:])
        if "stopped" in row:
            lines.append(f"| {said} | {row['stopped']} | | | |")
            continue
        rounds = {key: np.array([one[key] for one in row["rounds"]]) for key in row["rounds"][0]}
        rate = f"{np.median(rounds['peer_rate']):.3g} to {np.median(rounds['our_rate']):.3g}"
        one = f"{1e3 * np.median(rounds['peer_one']):.3g} to {1e3 * np.median(rounds['our_one']):.3g} ms"
        fit, ours = row["peer"]["seconds"], row["ours"]["seconds"]
        fitted = f"not done after {given.fit_limit:g} s, ours {ours:.1f} s, > {given.fit_limit / ours:.0f}"
        if fit is not None:
            fitted = f"{fit:.1f} to {ours:.1f} s, {fit / ours:.2f}"
        mb = max(row["peer"]["mb"], row.get("fit_mb", 0))
        memory = f"{mb:,.0f} to {row['ours']['mb']:,.0f} MB, {mb / row['ours']['mb']:.2f}"
        lines.append(
            f"| {said} | {rate}, {ratio(rounds['our_rate'] / rounds['peer_rate'])} "
            f"| {one}, {ratio(rounds['peer_one'] / rounds['our_one'])} | {fitted} | {memory} |"
        )
    return lines


def ratio(values):
    return f"**{np.median(values):.2f}** ({values.min():.2f} to {values.max():.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of sets of defects")
    parser.add_argument("--sets", help="names of some of them, with commas")
    parser.add_argument("--only", choices=("quality", "speed"))
    parser.add_argument("--quick", action="store_true", help="one set, few images: whether the script works")
    parser.add_argument("--coreset", type=float, default=0.1, help="share of the patches that PatchCore keeps")
    parser.add_argument("--rounds", type=int, help="of measuring speed; 5 if not given, quick 2")
    parser.add_argument("--scored", type=int, help="images a round, for speed; 200 if not given, quick 16")
    parser.add_argument("--fit-limit", type=float, default=600, help="seconds after which a fit is cut off")
    parser.add_argument("--memory-limit", type=float, default=12, help="gigabytes that a process of anomalib may have")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--publish", action="store_true", help="put the tables into results/defects.md")
    parser.add_argument("-o", "--output", type=Path, default=cache_folder() / "defects-results", help="work folder")
    given = parser.parse_args()
    chosen = {name: value for name in ("rounds", "scored") if (value := getattr(given, name)) is not None}
    sizes = (QUICK if given.quick else FULL) | chosen
    roots = sets_in(given.folder)
    if given.sets:
        roots = [root for root in roots if root.name in given.sets.split(",")]
    roots = roots[: sizes["sets"]]
    if not roots:
        parser.error(f"no set of defects in {given.folder}")
    torch.set_num_threads(given.threads)
    given.output.mkdir(parents=True, exist_ok=True)
    results = Results(given.output / ("quick.json" if given.quick else "results.json"))
    print(where(), flush=True)
    for name, work in (("quality", quality), ("speed", speed)):
        if given.only in (None, name):
            work(results, roots, given, sizes)
    lines = []
    for title, table in (("quality", quality_table), ("speed", lambda rows: speed_table(rows, given))):
        rows = {name: row for name, row in results.rows.items() if name.startswith(title)}
        if rows:
            loads = [row["load"] for row in rows.values()]
            places = sorted({row["where"] for row in rows.values()})
            lines += [*places, f"Load of the machine {min(loads)} to {max(loads)}.", "", *table(rows), ""]
    (given.output / "results.md").write_text("\n".join(lines))
    print("\n".join(["", *lines]))
    if given.publish:
        publish("defects", "anomalib", "Against anomalib (`python benchmarks/defects.py FOLDER`)", lines)


if __name__ == "__main__":
    main()
