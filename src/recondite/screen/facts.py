"""What the facts of a saved screen look like, as far as they are read again."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from recondite.statistics.contamination import LEFT_OUT

PROBE, PROBES = "bfloat16 probe", 4
"""The fact of a screen that holds the scores of so many random images; in bfloat16, processors may differ in them."""
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
Sides = Annotated[list[NonNegativeInt], Field(min_length=3, max_length=3)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Sample(_Part):
    images: NonNegativeInt
    in_colour: NonNegativeInt
    height: Sides
    width: Sides


class _Images(_Part):
    images: NonNegativeInt = 0
    fingerprint: str = ""


class _Calibration(_Images):
    left_out_in_parts: NonNegativeInt = 0
    left_out: dict[str, NonNegativeInt] = Field(default_factory=dict, alias=LEFT_OUT)
    no_promise: list[str] = Field(default_factory=list)


class _KnownDefects(_Part):
    images: NonNegativeInt
    known: Pair
    unseen: Pair
    told: Pair | None = None


class _Units(_Part):
    images: NonNegativeInt
    units: NonNegativeInt
    largest: NonNegativeInt


class _Unreadable(_Part):
    count: NonNegativeInt = 0
    first: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(default_factory=list)


class _Contamination(_Part):
    suspects: list[str] = Field(default_factory=list)


class _Facts(_Part):
    preset: str | None = None
    chosen: str | None = None
    remarks: list[str] = Field(default_factory=list)
    sample: _Sample | None = None
    images: _Images = _Images()
    calibration: _Calibration = _Calibration()
    units: _Units | None = None
    unreadable: _Unreadable = _Unreadable()
    contamination: _Contamination | None = None
    known_defects: _KnownDefects = _KnownDefects(images=0, known=[0, 0], unseen=[0, 0])  # null is none
    training: dict[str, Any] = Field(default_factory=dict)
    map_scale: Pair | None = None
    version: int = 1
    versions: list[dict[str, Any]] = Field(default_factory=list)
    probe: list[float] | None = Field(default=None, alias=PROBE, min_length=PROBES, max_length=PROBES)


def checked_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a saved screen as they are; others than those that are read may be anything.

    Raises:
        ValueError: they are not of the form in which they were written.
    """
    _Facts.model_validate(facts)
    return dict(facts)
