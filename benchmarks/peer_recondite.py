"""Our side in the speed part of benchmarks/defects.py: `fit` with no detector named, in a process of its own."""

import numpy as np
import torch
from peer_loop import FOLDER, THREADS, answer_requests, median_of, seconds

import recondite

torch.set_num_threads(THREADS)


class Subject:
    """The default screen."""

    def fit(self, name, alpha):
        """Fit and calibrate on images (N, H, W, 3), uint8."""
        x = np.load(f"{FOLDER}/{name}.npy")

        def learn():
            self.screen = recondite.fit(x, alpha=alpha)

        return {"seconds": seconds(learn), "methods": self.screen.detector.methods, "shape": self.screen.detector.shape}

    def batches(self, name):
        x = np.load(f"{FOLDER}/{name}.npy")
        return {"seconds": seconds(lambda: self.screen.predict(x))}

    def one(self, name, times):
        x = np.load(f"{FOLDER}/{name}.npy")[:1]
        return {"seconds": median_of(times, lambda: self.screen.predict(x))}


if __name__ == "__main__":
    answer_requests(Subject())
