"""What an audit says of an image: which kind of finding it is, how grave, and why."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["severe", "moderate", "minor"]
SEVERITIES: tuple[Severity, ...] = ("severe", "moderate", "minor")

KINDS: dict[str, tuple[Severity, str]] = {
    "unreadable": ("severe", "it cannot be read"),
    "truncated": ("severe", "its file ends too early"),
    "leak": ("severe", "the other source has it too"),
    "exact-copy": ("severe", "another image has the same pixels"),
    "near-copy": ("severe", "another image shows the same, cropped, mirrored, resized, re-encoded, blurred, brighter"),
    "outlier": ("severe", "it is unlike the others"),
    "label": ("moderate", "its label may be wrong"),
    "dark": ("moderate", "even its brightest parts are dark"),
    "low-contrast": ("moderate", "it has little contrast"),
    "blurred": ("moderate", "its finest details are missing"),
    "noisy": ("moderate", "it has more grain than the others"),
    "low-information": ("moderate", "there is little to see"),
    "wrong-orientation": ("moderate", "its orientation tag is wrong"),
    "jpeg-artefacts": ("moderate", "it was compressed too much"),
    "overlay": ("moderate", "one of its corners shows what others do"),
    "transparent": ("moderate", "most of it is transparent"),
    "bright": ("minor", "even its darkest parts are bright"),
    "odd-size": ("minor", "its size is unlike the others'"),
    "odd-proportion": ("minor", "its proportion is unlike the others'"),
    "two-clusters": ("minor", "its class has two clusters, and it is of the smaller one"),
    "grey": ("minor", "it is grey among images in colour"),
    "border": ("minor", "it has a border of one colour"),
}
"""Kind -> (severity, in words). What is severe is proposed to be dropped; of copies all but one."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one image.

    Args:
        index: of the image, in the order of the source.
        id: of the image.
        kind: one of `KINDS`.
        value: how far it is from the others: spreads of the set (see `single_images`), a correlation in [0, 1] for
            copies, a p-value for outliers, the probability of any other label, the share of a class's variance that
            lies between its clusters, the number of images with an overlay; NaN where there is no such number.
        reason: in words.
        group: what belongs together, such as copies of each other or images of one wrong label; "" for none.
        drop: whether the image is proposed to be left out.
        suggested: the label that it seems to have; "" of other kinds.
    """

    index: int
    id: str
    kind: str
    value: float
    reason: str
    group: str = ""
    drop: bool = False
    suggested: str = ""

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind][0]
