"""Lets benchmarks fit `features` many times over the same images: the backbone looks at each of them once."""

import hashlib

import torch

from recondite.detectors.feature_vectors import FeatureVectors


def remember_vectors():
    """Keep in memory, from now on, what the backbone makes of every image, by the image's values."""
    look, seen = FeatureVectors.forward, {}

    def forward(self, x, inside=None):
        settings = repr(
            (self.shape, self._whole_layers, self._place_layers, self._looks_at_places, self._seen)
        ).encode()
        keys = [hashlib.blake2b(settings + image.numpy().tobytes(), digest_size=16).digest() for image in x]
        if not all(key in seen for key in keys):
            seen.update(zip(keys, zip(*look(self, x, inside), strict=True), strict=True))
        whole, places = zip(*(seen[key] for key in keys), strict=True)
        return torch.stack(whole), torch.stack(places)

    FeatureVectors.forward = forward
