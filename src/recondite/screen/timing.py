"""How fast screens score on this machine, and what its processor is."""

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recondite.data.datasets import nameless
from recondite.graphs.exported import probe_images

if TYPE_CHECKING:
    from recondite.screen.screen_like import ScreenLike

_ROUNDS, _SECONDS = 3, 0.3
_INSTRUCTIONS = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX-512 with VNNI",
    "avx_vnni": "AVX2 with VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
"""Flags of processors and what they stand for, the fastest at 8-bit integers first."""
_HELD_TO = {"AVX2": "avx2", "AVX2_VNNI": "avx_vnni", "AVX512_CORE": "avx512f", "AVX512_CORE_VNNI": "avx512_vnni"}


def milliseconds(judges: "Mapping[str, ScreenLike]") -> dict[str, float]:
    """Return the milliseconds that screens of one shape take for an image of a full batch: the least of rounds in turn.

    Args:
        judges: by name; it takes a third of a second for each.
    """
    detector = next(iter(judges.values())).detector
    count = detector.scoring_batch
    batch = nameless(probe_images(detector.shape, np.float32, count))
    for screen in judges.values():
        screen.score_batch(batch)
    taken: dict[str, list[float]] = {name: [] for name in judges}
    rounds, began = 0, time.perf_counter()
    while rounds < _ROUNDS or time.perf_counter() - began < _SECONDS * len(judges):
        rounds += 1
        for name, screen in judges.items():
            start = time.perf_counter()
            screen.score_batch(batch)
            taken[name].append((time.perf_counter() - start) / count * 1e3)
    return {name: round(min(times), 4) for name, times in taken.items()}


def instructions() -> str:
    """Return in words what the processor multiplies with, or what ONEDNN_MAX_CPU_ISA holds it to."""
    flags = {word for line in _processor_lines("flags") for word in line.split()}
    held = _HELD_TO.get(os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper())
    if held in flags:
        return f"{_INSTRUCTIONS[held]}, held to it"
    return next((name for flag, name in _INSTRUCTIONS.items() if flag in flags), platform.machine())


def processor() -> str:
    """Return what tells this kind of processor from others: its model, and the instructions that it has."""
    lines = _processor_lines("model name", "flags", "Features") or [platform.machine(), platform.processor()]
    return "\n".join([*lines, os.environ.get("ONEDNN_MAX_CPU_ISA", "")])


def _processor_lines(*names: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return sorted({line for line in lines if line.startswith(names)})
