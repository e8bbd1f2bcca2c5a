"""A frozen network of which the last layers are there twice: fine-tuned, and as they were."""

from collections import OrderedDict
from itertools import islice

from torch import Tensor, nn

from recondite.networks.backbones import Backbone, efficientnet, packed_layers

LAST = "head"


class TwoEndings(Backbone):
    """Images in, two feature maps out: of an EfficientNet-Lite as it is now, and of the one that it was.

    What was not fine-tuned is looked through once. All weights are random until they are loaded.

    Args:
        variant: "lite0", "lite1" or "lite2".
        blocks: how many of the last inverted residual blocks are there twice, beside the last convolution.
        side: of the images that the network sees, in pixels.
    """

    network: nn.Sequential
    before: nn.Sequential

    def __init__(self, variant: str, blocks: int, side: int) -> None:
        super().__init__(None, (LAST,), side, variant=variant)
        self.before = _layers(efficientnet(variant), -blocks - 1, None)

    @property
    def shared(self) -> int:
        """How many layers are there once."""
        return len(self.network) - len(self.before)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the last layer's output (N, F, h, w), as it is now and as it was, of images in [0, 1]."""
        x = self._as_expected(x)
        layers = self.network.children()
        for layer in islice(layers, self.shared):
            x = layer(x)
        now = x
        for layer in layers:
            now = layer(now)
        return [now.float(), self.before(x).float()]

    def _packed(self, x: Tensor) -> dict[str, nn.Module]:
        shared, x = packed_layers(_layers(self.network, 0, self.shared), x)
        endings = _layers(self.network, self.shared, None), self.before
        now, before = (packed_layers(ending, x)[0] for ending in endings)
        network = nn.Sequential(OrderedDict([*shared.named_children(), *now.named_children()]))
        return {"network": network, "before": before}

    def load_before(self, state: dict[str, Tensor]) -> None:
        """Fill the layers as they were from the `state_dict` of a whole network."""
        names = tuple(f"{name}." for name, _ in self.before.named_children())
        self.before.load_state_dict({name: value for name, value in state.items() if name.startswith(names)})


def _layers(network: nn.Sequential, start: int, end: int | None) -> nn.Sequential:
    return nn.Sequential(OrderedDict(list(network.named_children())[start:end]))
