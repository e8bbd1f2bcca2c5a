"""The side of PyOD in benchmarks/peers.py: its autoencoder of dense layers; see peer_alibi.py for how they talk.

Written from the public documentation of PyOD 3.6 (pyod.models.auto_encoder.AutoEncoder).
"""

import os
import sys
import time

FOLDER, THREADS = sys.argv[1], int(sys.argv[2])
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what libraries print is no answer

import json  # noqa: E402

import numpy as np  # noqa: E402
import pyod  # noqa: E402
import torch  # noqa: E402
from pyod.models.auto_encoder import AutoEncoder  # noqa: E402

torch.set_num_threads(THREADS)
HIDDEN = [512, 128]


def images(name, count):
    x = np.load(f"{FOLDER}/{name}.npy", mmap_mode="r")[:count].astype(np.float32) / 255
    return x.reshape(len(x), -1)


def fitted(x, epochs):
    return AutoEncoder(
        epoch_num=epochs,
        batch_size=64,
        hidden_neuron_list=HIDDEN,
        batch_norm=False,
        dropout_rate=0,
        preprocessing=False,
        verbose=0,
    ).fit(x)


class Peer:
    """One method a request; each returns the seconds of the part that is measured."""

    def __init__(self):
        self.model = fitted(images("train", 640), 1)

    def score(self, count):
        x = images("test", count)
        start = time.perf_counter()
        self.model.decision_function(x)
        return {"seconds": time.perf_counter() - start}

    def one(self, times):
        x = images("test", 1)
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            self.model.decision_function(x)
            seconds.append(time.perf_counter() - start)
        return {"seconds": float(np.median(seconds))}


def main():
    peer = Peer()
    print(json.dumps({"ready": True, "pyod": pyod.__version__}), file=ANSWERS)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(peer, request.pop("do"))(**request)), file=ANSWERS)


if __name__ == "__main__":
    main()
