"""Networks that are trained from scratch on small images: what a user might put behind a guard, and no part of it.

    python benchmarks/scratch.py cifar10|digits FILE [--epochs N] [--minutes M] [--threads 1]

cifar10: the network and the training of Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU": whitened first
layer, layers that pass their input on at first, random crops, mirrored every other time, weights drawn to their running
mean; without label smoothing, as logits are to tell what is foreign. digits: a CNN on digits 0 to 4 of MNIST, which are
moved, turned, scaled and slanted at random, by plain Nesterov SGD. Some training images are held out, always the same.
Needs RECONDITE_DATA. Numbers go to FILE after each epoch (safetensors). With --minutes the rate of learning falls in so
much time by the clock, if not sooner.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import where
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recondite.data.datasets import ImageSet, open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.networks.precision import bfloat16_over_float32

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CASES = {
    "cifar10": {"source": "cifar10", "names": CIFAR, "shape": (3, 32, 32), "held": 3000, "epochs": 11},
    "digits": {"source": "mnist", "names": tuple("01234"), "shape": (1, 28, 28), "held": 4000, "epochs": 6},
}


@dataclass(frozen=True)
class Recipe:
    """Nesterov SGD, its rate rising and falling linearly.

    `first` and `last` are shares of the highest rate, `rise` one of the steps. `decay` times the weights is taken off
    at each step. With `drawn` the weights are drawn to their running mean.
    """

    batch: int
    rate: float
    rate_of_biases: float
    momentum: float
    decay: float
    first: float
    rise: float
    last: float
    drawn: bool

    def share(self, done: float) -> float:
        """Return the share of the highest rate where so much of the steps is done."""
        if done < self.rise:
            return self.first + (1 - self.first) * done / self.rise
        return 1 - (1 - self.last) * (done - self.rise) / (1 - self.rise)


RECIPES = {
    "cifar10": Recipe(512, 0.75, 48, 0.85, 1e-3, first=0.2, rise=0.23, last=0.07, drawn=True),
    "digits": Recipe(256, 0.2, 0.2, 0.9, 1e-4, first=0.01, rise=0.2, last=0, drawn=False),
}
_TOGETHER, _WHITENED = 5, 3


class CifarNetwork(nn.Module):
    """Images (N, 3, 32, 32) in [0, 1] to logits (N, K); the output of `features` is (N, 256)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.247, 0.2435, 0.2616]).view(1, 3, 1, 1))
        self.whitening = nn.Conv2d(3, 24, 2)
        nn.init.zeros_(self.whitening.bias)
        self.features = nn.Sequential(
            nn.GELU(), *_halved(24, 64), *_halved(64, 256), *_halved(256, 256), nn.MaxPool2d(3), nn.Flatten()
        )
        self.head = nn.Linear(256, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.whitening((x - self.mean) / self.deviation))) / 9

    def prepare(self, pixels: Tensor) -> None:
        """Make the first layer that of the principal patches of 2 x 2 pixels, and their negatives."""
        x = (pixels[:5000] - self.mean) / self.deviation
        patches = F.unfold(x, 2).transpose(1, 2).reshape(-1, 12)
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (variances + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        self.whitening.weight.data = torch.cat([filters, -filters])
        self.whitening.weight.requires_grad_(False)


class DigitNetwork(nn.Module):
    """Images (N, 1, 28, 28) in [0, 1] to logits (N, K); the output of `features` is (N, 128)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 32, 5, 2, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU(), *_conv(32, 64), nn.MaxPool2d(2)),
            *(*_conv(64, 128), *_conv(128, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.head = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def prepare(self, pixels: Tensor) -> None:
        """Nothing."""


def _conv(size: int, out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(size, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()


def _halved(size: int, out: int) -> tuple[nn.Module, ...]:
    first, second = (nn.Conv2d(one, out, 3, padding=1, bias=False) for one in (size, out))
    for layer in (first, second):
        nn.init.dirac_(layer.weight.data[: layer.in_channels])
    one, other = (nn.BatchNorm2d(out, eps=1e-12, momentum=0.4) for _ in range(2))
    for layer in (one, other):
        layer.weight.requires_grad_(False)
    return first, nn.MaxPool2d(2), one, nn.GELU(), second, other, nn.GELU()


def new_network(case: str, classes: int) -> nn.Module:
    return (CifarNetwork if case == "cifar10" else DigitNetwork)(classes)


def read_network(case: str, path: Path | str) -> nn.Module:
    numbers = load_file(path)
    network = new_network(case, len(numbers["head.weight"]))
    network.load_state_dict(numbers)
    return network.eval().requires_grad_(False)


def split(case: str) -> tuple[ImageSet, ImageSet]:
    """Return images to learn from, and those that are held out."""
    facts = CASES[case]
    images = open_images(f"{facts['source']}/train:{','.join(facts['names'])}", shape=facts["shape"])
    order = np.random.default_rng(0).permutation(images.size)
    return images.select(order[facts["held"] :].tolist()), images.select(order[: facts["held"]].tolist())


def pixels_of(images: ImageSet, shape: tuple[int, ...], names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return the images (N, C, H, W) of these classes, and their numbers."""
    found = list(read_batches(images, Preprocessing(shape=shape), 500))
    labels = np.array([one for batch in found for one in batch.labels])
    kept = np.isin(labels, names)
    pixels = torch.from_numpy(np.concatenate([batch.pixels for batch in found])[kept])
    return pixels, torch.tensor([names.index(one) for one in labels[kept]])


def moved(x: Tensor, case: str, mirrored: Tensor) -> Tensor:
    """Return images (N, C, H, W) changed at random: CIFAR-10's shifted, and some mirrored; digits by an affine map."""
    count = len(x)
    if case == "cifar10":
        padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
        tops, lefts = torch.randint(0, 5, (2, count))
        rows, columns = torch.arange(32)[None, :] + tops[:, None], torch.arange(32)[None, :] + lefts[:, None]
        columns[mirrored] = columns[mirrored].flip(1)
        places = torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None]
        return padded.permute(0, 2, 3, 1)[places].permute(0, 3, 1, 2)
    angle, slant = (torch.rand(2, count) * 2 - 1) * torch.tensor([[0.26], [0.2]])
    scale = 1 + (torch.rand(2, count) * 2 - 1) * 0.15
    shift = (torch.rand(2, count) * 2 - 1) * 0.15
    cos, sin = angle.cos(), angle.sin()
    top = torch.stack([cos * scale[0], (slant * cos - sin) * scale[1], shift[0]], dim=1)
    bottom = torch.stack([sin * scale[0], (slant * sin + cos) * scale[1], shift[1]], dim=1)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def batches(count: int, epochs: int, size: int) -> Iterator[tuple[int, Tensor]]:
    for epoch in range(epochs):
        order = torch.randperm(count)
        for start in range(0, count - size + 1, size):
            yield epoch, order[start : start + size]


class RunningMean:
    """Of a network's numbers; they are drawn to it, the less the longer it has learnt."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._means = {name: value.clone() for name, value in network.state_dict().items() if value.is_floating_point()}

    def draw(self, kept: float) -> None:
        """Make each number its mean, of which `kept` is as it was."""
        for name, value in self._network.state_dict().items():
            if name in self._means:
                value.copy_(self._means[name].lerp_(value, 1 - kept))


def saved(network: nn.Module, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)


def train(
    case: str, x: Tensor, y: Tensor, classes: int, epochs: int, path: Path, minutes: float | None = None
) -> nn.Module:
    """Return a network that was trained in bfloat16 where that is faster, its rate rising and falling linearly."""
    began, recipe = time.monotonic(), RECIPES[case]
    torch.manual_seed(0)
    network = new_network(case, classes)
    network.prepare(x)
    network = network.to(memory_format=torch.channels_last).train()
    mean = RunningMean(network)
    halved = bfloat16_over_float32() < 1
    learning = [one for one in network.parameters() if one.requires_grad]
    rates = [recipe.rate if one.ndim > 1 else recipe.rate_of_biases for one in learning]
    optimiser = torch.optim.SGD(
        [{"params": [one], "weight_decay": recipe.decay / rate} for one, rate in zip(learning, rates, strict=True)],
        momentum=recipe.momentum,
        nesterov=True,
    )
    torch.manual_seed(1)
    mirrored = torch.rand(len(x), generator=torch.Generator().manual_seed(1)) < 0.5
    steps, losses, last, step = epochs * (len(x) // recipe.batch), [], 0, 0
    for epoch, rows in batches(len(x), epochs, recipe.batch):
        if epoch > last:
            saved(network, path)
            print(f"epoch {last}: loss {np.mean(losses):.4f}, {time.process_time():.0f} s", flush=True)
            losses, last = [], epoch
            if case == "cifar10":
                network.whitening.bias.requires_grad_(epoch < _WHITENED)
        done = step / steps
        if minutes is not None:
            done = max(done, (time.monotonic() - began) / 60 / minutes)
        if done >= 1:
            break
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * recipe.share(done)
        some = moved(x[rows], case, mirrored[rows] ^ bool(epoch % 2))
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            logits = network(some.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        step += 1
        if recipe.drawn and step % _TOGETHER == 0:
            mean.draw(0.95**_TOGETHER * (step / steps) ** 3)
        if step % 30 == 0:
            print(f"step {step} of {steps}: {np.mean(losses[-30:]):.3f}, {time.process_time():.0f} s", flush=True)
    if recipe.drawn:
        mean.draw(1.0)
    print(f"{step} steps of {recipe.batch}")
    saved(network, path)
    return read_network(case, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("path", type=Path)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(where(), given, flush=True)
    facts = CASES[given.case]
    names = facts["names"]
    start = time.process_time()
    x, y = pixels_of(split(given.case)[0], facts["shape"], names)
    print(f"{len(x)} images read, {time.process_time() - start:.0f} s of processor time", flush=True)
    start = time.process_time()
    epochs = given.epochs or facts["epochs"]
    network = train(given.case, x, y, len(names), epochs, given.path, given.minutes)
    print(f"trained in {time.process_time() - start:.0f} s of processor time", flush=True)
    source = f"{facts['source']}/test:{','.join(names)}"
    x, y = pixels_of(open_images(source, shape=facts["shape"]), facts["shape"], names)
    with torch.no_grad():
        right = [(network(some).argmax(1) == of) for some, of in zip(x.split(500), y.split(500), strict=True)]
    print(f"accuracy on {len(x)} test images: {torch.cat(right).float().mean():.4f}")


if __name__ == "__main__":
    main()
