"""recondite predict --cluster: one call, and what it came to in words."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recondite.cluster.parts import MANIFEST
from recondite.cluster.sweep import Workers, cluster_sweep
from recondite.options import make_options
from recondite.screen.screen import Screen, promise


def predict_on_cluster(
    screen: Screen, images: str, output: Path, cluster: str, spread: Mapping[str, Any], **rows: Any
) -> None:
    """Judge images on a cluster and say what came of it.

    Args:
        screen, images, output, cluster, rows: as in `cluster_sweep`.
        spread: the values of `Workers`.
    """
    options = make_options(Workers, spread, "--cluster")
    result = cluster_sweep(screen, images, output, cluster=cluster, spread=options, progress=True, **rows)
    if result.taken_up:
        print(f"took up {result.taken_up:,} images that were judged before", file=sys.stderr)
    manifest = result.manifest
    counts = ", ".join(f"{count:,} {word}" for word, count in manifest["counts"].items())
    print(f"{manifest['images']:,} images, {manifest['rows']:,} rows: {counts}")
    print(promise(screen, rows.get("fdr")))
    print(f"{manifest['parts']:,} parts: {output}, proven by {output / MANIFEST}")
