"""A map of 10,000 latents: openTSNE with its defaults, and as Recondite draws it. Time, and what is kept of neighbours.

python benchmarks/latent_map.py SCREEN [mnist/test]
"""

import argparse
import os
import time

import numpy as np
from machine import where
from openTSNE import TSNE
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

import recondite
from recondite.statistics.embedding import make_map
from recondite.studies.output import some_images

NEIGHBOURS = 10


def neighbours(points):
    return NearestNeighbors(n_neighbors=NEIGHBOURS).fit(points).kneighbors(return_distance=False)


def main(screen: str, images: str, threads: int) -> None:
    detector = recondite.load(screen).detector
    _, labels, pixels, _ = some_images(images, detector, 10_000)
    latents = np.concatenate([detector.encode(pixels[start : start + 32]) for start in range(0, len(pixels), 32)])
    x, classes = latents.astype(np.float64), np.unique(labels, return_inverse=True)[1]
    near, some = neighbours(x), np.random.default_rng(0).permutation(len(x))[:3000]
    ways = {
        "openTSNE, defaults": lambda: np.asarray(
            TSNE(perplexity=30, initialization="pca", random_state=0, n_jobs=threads).fit(x)
        ),
        "recondite": lambda: make_map(latents).points,
    }
    print(f"{len(x):,} latents of {x.shape[1]} numbers, {threads} threads; load {os.getloadavg()[0]:.1f}")
    for name, draw in ways.items():
        wall, processor = time.perf_counter(), time.process_time()
        points = draw()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        found = neighbours(points)
        kept = np.mean([len(set(a) & set(b)) for a, b in zip(near, found, strict=True)]) / NEIGHBOURS
        votes = np.array([np.bincount(classes[row]).argmax() for row in found])
        trust = trustworthiness(x[some], points[some])
        print(
            f"{name:20} {wall:6.1f} s, {processor:6.1f} s of processor; neighbours kept {kept:.4f}, class of "
            f"neighbours right {np.mean(votes == classes):.4f}, trustworthiness {trust:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screen")
    parser.add_argument("images", nargs="?", default="mnist/test")
    print(where(), flush=True)
    import torch

    given = parser.parse_args()
    main(given.screen, given.images, torch.get_num_threads())
