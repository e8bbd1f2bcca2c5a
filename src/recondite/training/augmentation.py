"""Augmentation of training images: small rotations, scale, colour, flips."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from recondite.distributed import uniform
from recondite.errors import InputError

LARGEST_TURN = 15.0
"""Degrees to either side."""
LARGEST_ZOOM = 1.2
LARGEST_HUE = 0.05
"""Share of the colour circle to either side."""
# The luma and the two axes of colour of the NTSC system: in their plane a change of hue is a rotation.
_YIQ = [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]]


def check_augmentation(names: str, shape: Sequence[int]) -> tuple[str, ...]:
    """Return the names, from text joined by commas, if images of this shape (C, H, W) can be changed so.

    Raises:
        InputError: they are vectors, or have no hue.
    """
    chosen = tuple(names.split(","))
    if len(shape) != 3:
        raise InputError(f"augmentation is of images; got vectors {tuple(shape)}: leave out augment={names!r}")
    if "hue" in chosen and shape[0] != 3:
        raise InputError(f"hue needs images of three channels; got {shape[0]}: leave hue out of augment={names!r}")
    return chosen


def augmented(x: Tensor, names: Sequence[str]) -> Tensor:
    """Return images changed at random, each in its own way.

    - rotate: by up to 15 degrees to either side;
    - zoom: enlarged up to 1.2 times around the centre;
    - flip: mirrored left to right, every other one;
    - hue: turned by up to a twentieth of the colour circle, brightness kept.

    What a turn brings in from beyond the border is the image mirrored there. Four numbers are drawn for each image
    whatever the names, so that leaving one out does not change the others.

    Args:
        x: (N, C, H, W) in [0, 1].
        names: as `check_augmentation` returns them; with none, `x` comes back as it is.
    """
    if not names:
        return x
    turn, zoom, side, hue = uniform((len(x), 4), x.device).unbind(1)
    if {"rotate", "zoom", "flip"} & set(names):
        angle = math.radians(LARGEST_TURN) * (2 * turn - 1) if "rotate" in names else torch.zeros_like(turn)
        factor = 1 + (LARGEST_ZOOM - 1) * zoom if "zoom" in names else torch.ones_like(zoom)
        mirror = torch.where(side < 0.5, -1.0, 1.0) if "flip" in names else torch.ones_like(side)
        x = _moved(x, angle, factor, mirror)
    if "hue" in names:
        x = _turned_hue(x, 2 * math.pi * LARGEST_HUE * (2 * hue - 1))
    return x


def with_turned(x: Tensor, copies: int) -> Tensor:
    """Return images (N copies, C, H, W), each followed by copies of it turned by equal parts of a circle.

    What a turn brings in from beyond the border is the image mirrored there.

    Args:
        x: (N, C, H, W).
        copies: how many, the image itself among them.

    >>> with_turned(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 2)[1].round()
    tensor([[[4., 3.],
             [2., 1.]]])
    """
    same = torch.ones(len(x), device=x.device)
    parts = [_moved(x, 2 * math.pi * number / copies * same, same, same) for number in range(1, copies)]
    return torch.stack([x, *parts], dim=1).flatten(0, 1)


def _moved(x: Tensor, angle: Tensor, factor: Tensor, mirror: Tensor) -> Tensor:
    """Turn, enlarge and mirror in one interpolation; all three (N,)."""
    height, width = x.shape[2:]
    cosine, sine, nothing = angle.cos() / factor, angle.sin() / factor, torch.zeros_like(angle)
    # Places are counted in half sides, which differ where an image is not square.
    across = torch.stack([cosine * mirror, -sine * height / width, nothing], dim=1)
    down = torch.stack([sine * mirror * width / height, cosine, nothing], dim=1)
    grid = affine_grid(torch.stack([across, down], dim=1), list(x.shape), align_corners=False)
    moved = grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def _turned_hue(x: Tensor, angle: Tensor) -> Tensor:
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.zeros(len(x), 3, 3, device=x.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = cosine
    turn[:, 1, 2], turn[:, 2, 1] = -sine, sine
    yiq = torch.tensor(_YIQ)
    matrix = torch.linalg.inv(yiq).to(x.device) @ turn @ yiq.to(x.device)
    turned = torch.einsum("nij,njhw->nihw", matrix, x).clamp(0, 1)
    return turned.contiguous(memory_format=torch.channels_last)
