"""Lets benchmarks fit `features` many times over the same images: the backbone looks at each of them once."""

import hashlib

import torch

from recondite.detectors.feature_vectors import FeatureVectors


def remember_vectors():
    """Keep in memory, from now on, what the backbone makes of every image, by the image's values.

    The backbone's weights are read and made ready once for each shape and choice of layers.
    """
    look, load, make_ready = FeatureVectors.forward, FeatureVectors.load_weights, FeatureVectors.ready
    seen, ready = {}, {}

    def settings(self):
        return repr((self.shape, self._whole_layers, self._place_layers, self._looks_at_places, self._seen)).encode()

    def load_weights(self):
        if settings(self) not in ready:
            load(self)
            ready[settings(self)] = make_ready(self, torch.device("cpu"))

    def forward(self, x, inside=None):
        mine = settings(self)
        if mine not in ready:
            return look(self, x, inside)
        keys = [hashlib.blake2b(mine + image.numpy().tobytes(), digest_size=16).digest() for image in x]
        if not all(key in seen for key in keys):
            seen.update(zip(keys, zip(*look(ready[mine], x, inside), strict=True), strict=True))
        whole, places = zip(*(seen[key] for key in keys), strict=True)
        return torch.stack(whole), torch.stack(places)

    FeatureVectors.forward, FeatureVectors.load_weights = forward, load_weights
    FeatureVectors.ready = lambda self, device: self  # noqa: ARG005
