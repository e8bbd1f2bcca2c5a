"""What a few known defects are worth: detection of their like and of other kinds, before and after a screen is taught.

    python benchmarks/known_defects.py FOLDER [--sets bottle,screw] [--draws 20] [--defects 5]

FOLDER holds sets laid out as MVTec AD. The detector is `features` as `fit` chooses it, fitted on all good images to
learn from. In each draw five defective test images of one kind (the kinds in turn) are taught; measured are the good
test images against the other images of that kind, and against those of all other kinds. A head that is refused leaves
the scores as they were. Images are looked at once: a draw takes a second. Printed are means over draws, the share of
what is missing to an AUROC of 1 that the head finds, and how many draws were refused.
"""

import argparse
import re
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from machine import where

from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.data.sample import sampled
from recondite.data.spool import Rows, Spool, keys_of, read_all
from recondite.detectors import build
from recondite.detectors.defect_head import sharpened
from recondite.detectors.features import Features
from recondite.options import TrainingOptions
from recondite.screen.known_defects import KnownDefects, Lesson, Looked, UnhelpfulError, checked_gain
from recondite.statistics.metrics import auroc


def opened(root):
    """Return a fitted detector, the good images that it learnt from, and the good and the bad test images."""
    sample, source = sampled(open_images(str(root), role="fit"))
    detector = build("features", image_shape=sample.shape(None, Features.image_size))
    seen = Preprocessing(shape=detector.shape)
    fresh, bad = (open_images(str(root), role=role) for role in ("inliers", "outliers"))
    good, fresh, bad = (read_all(images, seen) for images in (source, fresh, bad))
    return detector.fit_rows(good.rows(), None, TrainingOptions()), good, fresh, bad


def chosen(spool, rows):
    """Return some images of a spool."""
    parts = (spool.pixels[rows], spool.hashes[rows], spool.small[rows])
    return Spool(*parts, [spool.ids[row] for row in rows], [spool.labels[row] for row in rows], [])


def looked(detector, spool):
    return Looked.at(detector, len(spool), [spool.rows()], left_out=False)


def scores_with(head, images):
    """Return the scores of images with a head."""
    every = np.ones(len(images.scores), dtype=bool)
    values = torch.cat([head(places, None) for places in images.places(every)]).double()
    return sharpened(torch.from_numpy(images.scores), values).numpy()


def measured(root, draws, count):
    """Print one row for each kind, and one for all."""
    detector, good, fresh, bad = opened(root)
    kinds = np.array(bad.labels)
    if len(set(kinds)) == 1:  # the names tell
        kinds = np.array([re.sub(r"[\d_]+$", "", Path(name).stem) for name in bad.ids])
    first = KnownDefects(chosen(bad, np.arange(count)), {})
    every = Lesson.of(detector, Rows(good.pixels, np.arange(len(good))), keys_of([good])[0], first, 0)
    fresh, seen = looked(detector, fresh), looked(detector, bad)
    rows = {}
    for draw in range(draws):
        kind = np.unique(kinds)[draw % len(np.unique(kinds))]
        taught = np.random.default_rng(draw).permutation(np.flatnonzero(kinds == kind))[:count]
        known = KnownDefects(chosen(bad, taught), {})
        lesson = replace(
            every,
            defects=looked(detector, known.images),
            defect_units=np.unique(keys_of([known.images])[0], return_inverse=True)[1],
            real=np.ones(count, dtype=bool),
        )
        before, refused = [part.scores for part in (fresh, seen)], 0
        after = before
        try:
            checked_gain(lesson)
            head = lesson.head()
            after = [scores_with(head, part) for part in (fresh, seen)]
        except UnhelpfulError:
            refused = 1
        same = (kinds == kind) & ~np.isin(np.arange(len(kinds)), taught)
        found = [
            auroc(scores[0], scores[1][part]) if part.any() else np.nan
            for part in (same, kinds != kind)
            for scores in (before, after)
        ]
        rows.setdefault(kind, []).append([*found, refused])
    for kind, found in [*rows.items(), ("all", list(chain.from_iterable(rows.values())))]:
        old, new, other_old, other_new, refused = np.array(found).T
        share = (new.mean() - old.mean()) / max(1 - old.mean(), 1e-9)
        print(
            f"| {root.name} | {kind} | {len(found)} | {old.mean():.3f} | {new.mean():.3f} ({new.min():.3f} to "
            f"{new.max():.3f}) | {share:.2f} | {other_old.mean():.3f} | {other_new.mean():.3f} | {refused.sum():.0f} |",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of sets of defects")
    parser.add_argument("--sets", default="bottle,screw")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--defects", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(where())
    print("| set | kind | draws | before | after | of what is missing | others, before | after | refused |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in given.sets.split(","):
        measured(given.folder / name, given.draws, given.defects)


if __name__ == "__main__":
    main()
