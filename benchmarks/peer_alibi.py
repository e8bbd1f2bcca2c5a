"""The side of alibi-detect in benchmarks/peers.py: runs in an environment of its own, one JSON line for each request.

    python peer_alibi.py FOLDER THREADS

FOLDER holds the arrays that peers.py wrote. Requests come on standard input, answers go to standard output:
{"do": "score", "images": 512, "batch": 64} -> {"seconds": 1.3}. Written from the public documentation of alibi-detect
0.13 (OutlierVAE, apply_mask, save_detector, load_detector) and of TensorFlow 2.18.
"""

import os
import sys
import time

FOLDER, THREADS = sys.argv[1], int(sys.argv[2])
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "TF_USE_LEGACY_KERAS": "1"}
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what libraries print is no answer

import json  # noqa: E402
from functools import cached_property  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from alibi_detect.models.tensorflow import elbo  # noqa: E402
from alibi_detect.od import OutlierVAE  # noqa: E402
from alibi_detect.saving import load_detector, save_detector  # noqa: E402
from alibi_detect.utils.perturbation import apply_mask  # noqa: E402
from PIL import Image  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(THREADS)
tf.config.threading.set_inter_op_parallelism_threads(THREADS)
LATENT, DRAWS = 1024, 2


def detector():
    layers = tf.keras.layers
    encoder = tf.keras.Sequential(
        [
            layers.InputLayer(input_shape=(32, 32, 3)),
            *(layers.Conv2D(size, 4, strides=2, padding="same", activation="relu") for size in (64, 128, 512)),
        ]
    )
    decoder = tf.keras.Sequential(
        [
            layers.InputLayer(input_shape=(LATENT,)),
            layers.Dense(4 * 4 * 128),
            layers.Reshape(target_shape=(4, 4, 128)),
            layers.Conv2DTranspose(256, 4, strides=2, padding="same", activation="relu"),
            layers.Conv2DTranspose(64, 4, strides=2, padding="same", activation="relu"),
            layers.Conv2DTranspose(3, 4, strides=2, padding="same", activation="sigmoid"),
        ]
    )
    return OutlierVAE(
        threshold=0.015,
        score_type="mse",
        encoder_net=encoder,
        decoder_net=decoder,
        latent_dim=LATENT,
        samples=DRAWS,
    )


def images(name, count):
    return np.load(f"{FOLDER}/{name}.npy", mmap_mode="r")[:count].astype(np.float32) / 255


def fit(model, x, epochs):
    model.fit(x, loss_fn=elbo, cov_elbo={"sim": 0.05}, epochs=epochs, batch_size=64, verbose=False)


def peak_memory():
    """Return the peak of this process in MiB; getrusage would begin with that of the process it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


class Peer:
    """One method a request; each returns the seconds of the part that is measured."""

    @cached_property
    def model(self):
        """Not trained: times do not depend on the weights. Made when needed: `cold_start` goes without."""
        return detector()

    def save(self):
        """Untimed: a detector for `cold_start`."""
        save_detector(self.model, f"{FOLDER}/alibi")

    def train(self, steps):
        x, model = images("train", 64 * steps), detector()
        fit(model, x[:64], 1)
        start = time.perf_counter()
        fit(model, x, 1)
        return {"seconds": time.perf_counter() - start}

    def learn(self, images_learnt, epochs):
        x, fresh = images("train", images_learnt), images("test", 1000)
        model = detector()
        start = time.perf_counter()
        fit(model, x, epochs)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "error": float(model.score(fresh, batch_size=64)[1].mean())}

    def score(self, count, batch):
        x = images("test", count)
        start = time.perf_counter()
        self.model.predict(x, outlier_type="instance", return_feature_score=False, batch_size=batch)
        return {"seconds": time.perf_counter() - start}

    def one(self, times):
        x = images("test", 1)
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            self.model.predict(x, outlier_type="instance", return_feature_score=False)
            seconds.append(time.perf_counter() - start)
        return {"seconds": float(np.median(seconds))}

    def sweep(self, count, sizes, masks):
        x = images("test", count)
        start = time.perf_counter()
        for image in x:
            for size in sizes:
                masked, _ = apply_mask(
                    image[None], mask_size=(size, size), n_masks=masks, mask_type="normal", clip_rng=(0, 1)
                )
                self.model.score(masked.astype(np.float32))
        return {"seconds": time.perf_counter() - start}

    def folder(self, kind, batch):
        start = time.perf_counter()
        files = sorted(Path(f"{FOLDER}/{kind}").iterdir())
        x = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]).astype(np.float32) / 255
        self.model.predict(x, outlier_type="instance", return_feature_score=False, batch_size=batch)
        return {"seconds": time.perf_counter() - start}

    def memory(self, count, batch):
        x = images("test", count)
        self.model.predict(x, outlier_type="instance", return_feature_score=False, batch_size=batch)
        return {"mib": peak_memory()}

    def cold_start(self):
        x = np.asarray(Image.open(f"{FOLDER}/one.png").convert("RGB"), dtype=np.float32)[None] / 255
        load_detector(f"{FOLDER}/alibi").predict(x, outlier_type="instance")
        return {}


def main():
    peer = Peer()
    print(json.dumps({"ready": True, "tensorflow": tf.__version__}), file=ANSWERS)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(peer, request.pop("do"))(**request)), file=ANSWERS)


if __name__ == "__main__":
    main()
