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
from recondite.networks.two_endings import TwoEndings
from recondite.progress import progress as show
from recondite.screen.tuned_classifier import TunedClassifier
from recondite.torch_state import own_settings

_SIDE, _SIDE_OF_SMALL_IMAGES, _SIDE_OF_SMALL_GREY_ONES = 224, 192, 96
_LARGEST_SMALL, _LARGEST_GREY = 64, 32
_AT_ONCE, _BATCH = 16, 64
_LEARNING_RATE, _DECAY, _DROPOUT, _SMOOTHING = 3e-4, 1e-2, 0.2, 0.1
_WARM_UP, _EPOCHS, _FEWEST_STEPS = 50, 6, 200
_TOLD, _PENALTY, _ASKED = 0.7, 0.1, 2000


def check_blocks(blocks: int, variant: str) -> None:
    """Raise InputError where an EfficientNet-Lite has not so many blocks that may learn."""
    most = len(layers_of(variant)) - 3
    if not 1 <= blocks <= most:
        raise InputError(f"expected 1 to {most} blocks of {variant} to fine-tune; got {blocks}")


@own_settings()
def fine_tuned(
    images: ImageSet,
    names: Sequence[str],
    preprocessing: Preprocessing,
    *,
    blocks: int = 8,
    epochs: int | None = None,
    side: int | None = None,
    variant: str = "lite0",
    seed: int = 0,
    progress: bool = False,
) -> TunedClassifier:
    """Return a classifier whose last blocks, and a linear layer after them, were trained on images with classes.

    AdamW with a cosine schedule, label smoothing and dropout. Images are mirrored at random unless mirror images can be
    told from them, as those of digits can; they are changed in no other way. Activations are kept in half precision.

    Args:
        images: with their classes as labels.
        names: of the classes.
        preprocessing: of the images.
        blocks: how many of the last inverted residual blocks learn, beside the last convolution.
        epochs: passes over the images; None for 6, or more of few images, so that there are 200 steps of 64.
        side: of the images that the network sees; None for 192 pixels for images of up to 64, 96 for grey ones of up to
            32, such as digits, else 224.
        variant: "lite0", "lite1" or "lite2".
        seed: of order, mirroring and dropout.
        progress: show progress on standard error.

    Raises:
        InputError: too many blocks, no readable image, one channel or three are expected, or the wheel is missing.
    """
    check_blocks(blocks, variant)
    layers = layers_of(variant)
    if len(preprocessing.shape) != 3 or preprocessing.shape[0] not in (1, 3):
        raise InputError(f"expected images of 1 or 3 channels to fine-tune a network on; got {preprocessing.shape}")
    side = side or _side_of(preprocessing.shape)
    backbone = TwoEndings(variant, blocks, side)
    load_weights(backbone.network, variant)
    backbone.load_before(backbone.network.state_dict())
    assert isinstance(backbone.network, nn.Sequential)
    cut = backbone.shared
    frozen = Backbone(None, (layers[cut - 1],), side, variant=variant)
    frozen.network.load_state_dict(backbone.network[:cut].state_dict())
    learning = nn.Sequential(*list(backbone.network)[cut:])
    kept, classes = _activations(frozen, images, names, preprocessing, progress)
    linear = nn.Linear(_features_of(learning, kept), len(names))
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        epochs = epochs or max(_EPOCHS, math.ceil(_FEWEST_STEPS / math.ceil(len(kept) / _BATCH)))
        mirrors = _told_apart(kept) < _TOLD
        _train(learning, linear, kept, classes, epochs, mirrors, progress)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    return TunedClassifier(backbone.requires_grad_(False).eval(), variant, weight, bias, preprocessing.shape)


def _side_of(shape: tuple[int, ...]) -> int:
    largest = max(shape[1:])
    if shape[0] == 1 and largest <= _LARGEST_GREY:
        return _SIDE_OF_SMALL_GREY_ONES
    return _SIDE_OF_SMALL_IMAGES if largest <= _LARGEST_SMALL else _SIDE


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


def _told_apart(kept: NDArray[np.float16]) -> float:
    """Return the share of images that a linear rule, learnt on others, tells from their mirror images; .5 is chance.

    Args:
        kept: (N, 2, C, h, w), of images and their mirror images; the rule sees means over places.
    """
    some = torch.from_numpy(np.array([one.mean((2, 3), dtype=np.float32) for one in kept[:_ASKED]])).double()
    differences = some[:, 0] - some[:, 1]
    halves = differences[::2], differences[1::2]
    if not len(halves[1]):
        return 0.5
    right = 0
    for learnt, asked in (halves, halves[::-1]):
        spread = learnt.T @ learnt / len(learnt)
        ridge = _PENALTY * spread.diagonal().mean().clamp(min=1e-12) * torch.eye(len(spread), dtype=torch.float64)
        right += int((asked @ torch.linalg.solve(spread + ridge, learnt.mean(0)) > 0).sum())
    return right / len(differences)


def _train(
    learning: nn.Sequential,
    linear: nn.Linear,
    kept: NDArray[np.float16],
    classes: Tensor,
    epochs: int,
    mirrors: bool,
    shown: bool,
) -> None:
    learning.train().requires_grad_(True)
    steps = epochs * math.ceil(len(classes) / _BATCH)
    optimiser = torch.optim.AdamW([*learning.parameters(), *linear.parameters()], _LEARNING_RATE, weight_decay=_DECAY)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / min(_WARM_UP, 1 + steps // 4)) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    with show("fine-tuning", epochs * len(classes), shown) as advance:
        for rows, mirrored in _batches(len(classes), epochs, mirrors):
            x = torch.from_numpy(kept[rows.numpy(), mirrored.numpy()]).float()
            features = learning(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))
            logits = linear(F.dropout(features, _DROPOUT))
            loss = F.cross_entropy(logits, classes[rows], label_smoothing=_SMOOTHING)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            advance(len(rows), f"loss {loss.item():.3f}")


def _batches(count: int, epochs: int, mirrors: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield row numbers, and for each whether it is mirrored."""
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(count), _BATCH):
            yield rows, torch.randint(0, 1 + mirrors, (len(rows),))
