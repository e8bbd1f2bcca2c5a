"""Freed memory stays at hand while training, and goes back afterwards."""

import subprocess
import sys

import pytest

CODE = """
import resource
from recondite.training.device import large_blocks_kept

MIB = 2**20

def pages_fetched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        b"x" * (48 * MIB)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / MIB

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / MIB

start = resident()
with large_blocks_kept():
    b"x" * (48 * MIB)
    kept = resident() - start
    inside = pages_fetched()
outside, left = pages_fetched(), resident() - start


def smaller_pages_fetched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        b"x" * (4 * MIB)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / MIB


print(inside, kept, outside, left, smaller_pages_fetched())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is not glibc")
def test_large_blocks_are_used_again_and_then_given_back():
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    inside, kept, outside, left, smaller = map(float, done.stdout.split())
    assert inside < 10
    assert kept > 40
    assert outside > 200
    assert left < 10
    assert smaller < 20  # of 80: what scoring a batch needs stays at hand, as it would had nothing been trained
