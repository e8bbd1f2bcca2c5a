"""Verdicts for display: reasons in words, heat maps and reconstructions as PNG."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recondite.data.pictures import colours, heat_colours
from recondite.reports.explanation import in_words, statistics_of_first
from recondite.service.engine.batching import rows_of
from recondite.service.engine.judging import Judged
from recondite.statistics.scores import Verdicts


def why(judged: Judged, index: int) -> tuple[str, list[tuple[str, float]]]:
    """Return the verdict on one image in words, and (what a statistic is, standard deviations from normal)."""
    one = rows_of(judged.verdicts, index, index + 1)
    assert isinstance(one, Verdicts)
    words = in_words(judged.screen, one, judged.events[index].group)
    return words, [] if one.errors[0] is not None else statistics_of_first(judged.screen, one)


def heat_map(judged: Judged, index: int) -> bytes | None:
    """Return one image's heat map as a PNG of the screen's size; None where there is nothing to show."""
    verdicts, detector = judged.verdicts, judged.screen.detector
    if verdicts.feature_score is None or verdicts.errors[index] is not None:
        return None
    if not detector.locates or not detector.preprocessing.is_image:
        return None
    region = detector.preprocessing.region
    return png(heat_colours(verdicts.feature_score[index], judged.screen.map_scale, region))


def reconstruction(judged: Judged, index: int) -> bytes | None:
    """Return one image rebuilt as a PNG of the screen's size; None where there is nothing to show."""
    verdicts = judged.verdicts
    if verdicts.reconstruction is None or verdicts.errors[index] is not None:
        return None
    return png(colours(verdicts.reconstruction[index])) if judged.screen.detector.preprocessing.is_image else None


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels (H, W), (H, W, 3) or (H, W, 4) as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def base64_of(content: bytes | None) -> str | None:
    """Return bytes as text."""
    return None if content is None else base64.b64encode(content).decode()
