"""Fine-tuning the last blocks of an EfficientNet-Lite under a linear layer, on activations of the others that are kept.

What the frozen blocks make of each image and of its mirror image is written to a temporary file once, so that an epoch
costs the last blocks only.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite.data.datasets import ImageSet, read_batches
from recondite.data.images import Preprocessing
from recondite.errors import InputError
from recondite.networks.backbones import Backbone, layers_of, load_weights
from recondite.networks.hooks import evaluating
from recondite.progress import progress as show
from recondite.screen.tuned_classifier import LAST, TunedClassifier
from recondite.torch_state import own_settings

_SIDE_OF_SMALL_IMAGES, _SIDE, _LARGEST_SMALL = 192, 224, 64
_AT_ONCE, _BATCH = 16, 64
_LEARNING_RATE, _DECAY, _DROPOUT, _SMOOTHING, _WARM_UP = 3e-4, 1e-2, 0.2, 0.1, 50


@own_settings()
def fine_tuned(
    images: ImageSet,
    names: Sequence[str],
    preprocessing: Preprocessing,
    *,
    blocks: int = 8,
    epochs: int = 6,
    side: int | None = None,
    variant: str = "lite0",
    seed: int = 0,
    progress: bool = False,
) -> TunedClassifier:
    """Return a classifier whose last blocks, and a linear layer after them, were trained on images with classes.

    AdamW with a cosine schedule, label smoothing and dropout; images are mirrored at random, and changed in no other
    way. Activations are kept in half precision.

    Args:
        images: with their classes as labels.
        names: of the classes.
        preprocessing: of the images.
        blocks: how many of the last inverted residual blocks learn, beside the last convolution.
        epochs: passes over the images.
        side: of the images that the network sees; None for 192 pixels for images of up to 64, else 224.
        variant: "lite0", "lite1" or "lite2".
        seed: of order, mirroring and dropout.
        progress: show progress on standard error.

    Raises:
        InputError: too many blocks, no readable image, one channel or three are expected, or the wheel is missing.
    """
    layers = layers_of(variant)
    if not 1 <= blocks <= len(layers) - 3:
        raise InputError(f"expected 1 to {len(layers) - 3} blocks of {variant} to fine-tune; got {blocks}")
    if len(preprocessing.shape) != 3 or preprocessing.shape[0] not in (1, 3):
        raise InputError(f"expected images of 1 or 3 channels to fine-tune a network on; got {preprocessing.shape}")
    side = side or (_SIDE_OF_SMALL_IMAGES if max(preprocessing.shape[1:]) <= _LARGEST_SMALL else _SIDE)
    backbone = Backbone(None, (LAST,), side, variant=variant)
    load_weights(backbone.network, variant)
    assert isinstance(backbone.network, nn.Sequential)
    cut = len(layers) - 1 - blocks
    frozen = Backbone(None, (layers[cut - 1],), side, variant=variant)
    frozen.network.load_state_dict(backbone.network[:cut].state_dict())
    learning = nn.Sequential(*list(backbone.network)[cut:])
    kept, classes = _activations(frozen, images, names, preprocessing, progress)
    linear = nn.Linear(_features_of(learning, kept), len(names))
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _train(learning, linear, kept, classes, epochs, progress)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    return TunedClassifier(backbone.requires_grad_(False).eval(), variant, weight, bias, preprocessing.shape)


def _activations(
    frozen: Backbone, images: ImageSet, names: Sequence[str], preprocessing: Preprocessing, shown: bool
) -> tuple[NDArray[np.float16], Tensor]:
    """Return the activations float16 (N, 2, C, h, w) of readable images and their mirror images, and the classes (N,).

    They lie in a temporary file that vanishes with the process.
    """
    ready = frozen.ready(torch.zeros(_AT_ONCE, *preprocessing.shape))
    classes: list[int] = []
    shape: tuple[int, ...] = ()
    with tempfile.TemporaryFile(prefix="recondite-") as file, evaluating(ready):
        with show("looking at images", images.size, shown) as advance:
            for batch in read_batches(images, preprocessing, _AT_ONCE):
                pixels = torch.zeros(_AT_ONCE, *preprocessing.shape)
                pixels[: len(batch.pixels)] = torch.from_numpy(batch.pixels)
                both = [ready(some)[0][: len(batch.pixels)].half() for some in (pixels, pixels.flip(3))]
                pair = torch.stack(both, dim=1).contiguous().numpy()
                shape = pair.shape[1:]
                try:
                    file.write(np.ascontiguousarray(pair).data)
                except OSError as error:
                    raise InputError(
                        f"cannot keep activations in {tempfile.gettempdir()} (set TMPDIR): {error}"
                    ) from error
                classes += [names.index(batch.labels[index]) for index in np.flatnonzero(batch.good)]
                advance(len(batch.ids), "")
        file.flush()
        if not classes:
            raise InputError("not one image to learn from could be read")
        kept = np.memmap(file, dtype=np.float16, mode="r", shape=(len(classes), *shape))
    return kept, torch.tensor(classes)


def _features_of(learning: nn.Sequential, kept: NDArray[np.float16]) -> int:
    with evaluating(learning):
        return int(learning(torch.from_numpy(np.array(kept[0, :1])).float()).shape[1])


def _train(
    learning: nn.Sequential, linear: nn.Linear, kept: NDArray[np.float16], classes: Tensor, epochs: int, shown: bool
) -> None:
    learning.train().requires_grad_(True)
    steps = epochs * math.ceil(len(classes) / _BATCH)
    optimiser = torch.optim.AdamW([*learning.parameters(), *linear.parameters()], _LEARNING_RATE, weight_decay=_DECAY)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    with show("fine-tuning", epochs * len(classes), shown) as advance:
        for rows, mirrored in _batches(len(classes), epochs):
            x = torch.from_numpy(kept[rows.numpy(), mirrored.numpy()]).float()
            features = learning(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))
            logits = linear(F.dropout(features, _DROPOUT))
            loss = F.cross_entropy(logits, classes[rows], label_smoothing=_SMOOTHING)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            advance(len(rows), f"loss {loss.item():.3f}")


def _batches(count: int, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield row numbers, and for each whether it is mirrored."""
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(count), _BATCH):
            yield rows, torch.randint(0, 2, (len(rows),))
