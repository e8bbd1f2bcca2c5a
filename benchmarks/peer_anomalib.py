"""The side of anomalib in benchmarks/defects.py: its PatchCore and PaDiM, on our backbone or on networks of its own.

    peer_anomalib.py FOLDER THREADS patchcore|padim lite0|resnet18|wide_resnet50_2 GIGABYTES

Written from the public interface of anomalib 2.7 (PatchcoreModel, PadimModel). Its own networks have random weights:
what it would download cannot be had here, and time does not depend on them. The rest is its default: layers, 9
neighbours, 100 or 550 features of PaDiM. On our backbone PaDiM has all features, so that nothing is drawn.
"""

import resource
import sys
from pathlib import Path

from peer_loop import FOLDER, THREADS, answer_requests, median_of, seconds, seconds_within

METHOD, BACKBONE, GIGABYTES = sys.argv[3], sys.argv[4], float(sys.argv[5])
sys.path.append(str(Path(__file__).parents[1] / "src"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

if torch.version.cuda is None:
    # The index has torchvision for GPUs only. Without them its operators are missing; these two must at least be named.
    named = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        named.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import anomalib  # noqa: E402
import anomalib.models.image.padim.torch_model as padim  # noqa: E402
import anomalib.models.image.patchcore.torch_model as patchcore  # noqa: E402

from recondite.networks.backbones import Backbone, load_weights  # noqa: E402

torch.set_num_threads(THREADS)
OUR_LAYERS, BATCH = ("block5", "block11"), 32
LAYERS = {"patchcore": ("layer2", "layer3"), "padim": ("layer1", "layer2", "layer3")}


def inverse_on_one_thread(matrices, inverse=torch.linalg.inv):
    """Return what torch.linalg.inv does: torch 2.13 inverts many matrices wrongly on two threads (seen on AMD EPYC)."""
    torch.set_num_threads(1)
    try:
        return inverse(matrices)
    finally:
        torch.set_num_threads(THREADS)


torch.linalg.inv = inverse_on_one_thread


class OurFeatures(nn.Module):
    """Recondite's frozen EfficientNet-Lite0 as anomalib's extractor: images in [0, 1] to the maps of two layers."""

    out_dims = (40, 112)

    def __init__(self, **_given):
        super().__init__()
        self.backbone = Backbone(None, OUR_LAYERS, side=None)
        load_weights(self.backbone.network)

    def forward(self, images):
        return dict(zip(OUR_LAYERS, self.backbone(images), strict=True))


def model_of(method, backbone):
    given = {"backbone": backbone, "layers": list(LAYERS[method]), "pre_trained": False}
    if backbone == "lite0":
        # anomalib takes modules that torch.fx can trace; ours pads by the size of an image, and so comes ready-made.
        patchcore.TimmFeatureExtractor = padim.TimmFeatureExtractor = OurFeatures
        given["layers"] = list(OUR_LAYERS)
    if method == "patchcore":
        return patchcore.PatchcoreModel(**given)
    all_features = sum(OurFeatures.out_dims) if backbone == "lite0" else None
    return padim.PadimModel(**given, n_features=all_features)


def images(name):
    """Return images (N, 3, H, W), in [0, 1]; for anomalib's networks they are as good as standardised ones."""
    pixels = np.load(f"{FOLDER}/{name}.npy", mmap_mode="r")
    return torch.from_numpy(pixels.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)).contiguous()


class Subject:
    """One method on one backbone."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = model_of(METHOD, BACKBONE)

    def fit(self, name, coreset, limit):
        """Learn from images; {"seconds": None} if that was not done within the limit."""
        x = images(name)

        def learn():
            self._see(x)
            if METHOD == "patchcore":
                self.model.subsample_embedding(coreset)
            else:
                self.model.fit()

        found = seconds_within(limit, learn)
        self.model.eval()
        return {"seconds": found}

    def draw_bank(self, name, count, share):
        """Fill PatchCore's bank with a share of the patches of some images, drawn at random: as large, in no time."""
        self._see(images(name)[:count])
        patches = torch.vstack(self.model.embedding_store)
        self.model.embedding_store.clear()
        self.model.memory_bank = patches[torch.randperm(len(patches))[: int(share * len(patches))]].clone()
        self.model.eval()
        return {"bank": list(self.model.memory_bank.shape)}

    def score(self, name, to):
        """Write scores (N,) and maps (N, H, W) of images to a file."""
        parts = [self._judged(part) for part in images(name).split(BATCH)]
        scores = torch.cat([part.pred_score.flatten() for part in parts])
        maps = torch.cat([part.anomaly_map.squeeze(1) for part in parts])
        np.savez(f"{FOLDER}/{to}.npz", scores=scores.numpy(), maps=maps.numpy())
        return {}

    def batches(self, name, batch):
        parts = images(name).split(batch)
        return {"seconds": seconds(lambda: [self._judged(part) for part in parts])}

    def one(self, name, times):
        x = images(name)[:1]
        return {"seconds": median_of(times, lambda: self._judged(x))}

    def _see(self, x):
        store = self.model.embedding_store if METHOD == "patchcore" else self.model.memory_bank
        store.clear()
        self.model.train()
        with torch.no_grad():
            for part in x.split(BATCH):
                self.model(part)

    def _judged(self, x):
        with torch.no_grad():
            return self.model(x)


if __name__ == "__main__":
    limit = int(GIGABYTES * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    answer_requests(Subject(), anomalib=anomalib.__version__, torch=torch.__version__)
