"""What the file of a guard says of it, without its networks: no torch is needed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recondite.data.artifacts import read_header
from recondite.errors import ArtifactError
from recondite.graphs.exported import Exported
from recondite.screen.saved import GUARD_FILE
from recondite.statistics.selective import Floor

if TYPE_CHECKING:
    from recondite.screen.screen_like import ScreenLike

KIND, SCHEMA = "recondite guard", 2
IN_GRAPH, HEAD = "in one graph with the screen", "a linear head on the screen's backbone"
BY_TABLE, SENT = "a table of outputs (guard predict --outputs)", "none of its own: its labels are sent"
"""Classifiers in words."""
CLASSIFIER_FILE, TUNED_FILE = "classifier.onnx", "classifier.safetensors"


@dataclass(frozen=True)
class GuardFacts:
    """What a saved guard is and promises.

    Args:
        classes: their names; empty where any label is taken.
        classifier: its kind, in words.
        shares: part -> share of alpha.
        by_class: whether it is calibrated by predicted class.
        calibrated_on: how many images calibrate the parts; 0 where the screen's own calibration does.
        temperature: that logits are divided by for the confidences that are reported.
        floor: the lowest confidence that gets a label, and its promise; None without.
    """

    classes: tuple[str, ...]
    classifier: str
    shares: Mapping[str, float]
    by_class: bool
    calibrated_on: int
    temperature: float
    floor: Floor | None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "classes": list(self.classes)}


def guard_facts(screen: "ScreenLike", folder: Path | str) -> GuardFacts:
    """Return what the header of a guard's file says; whether it is of this screen is not checked.

    Args:
        screen: that of the folder, as `recondite.screen.described.described` gives it.
        folder: that holds a guard.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = Path(folder) / GUARD_FILE
    shapes, facts = read_header(path)
    check_guard_file(path, facts)
    try:
        shares = {str(part): float(share) for part, share in facts["shares"].items()}
        floor = facts.get("floor")
        return GuardFacts(
            classes=tuple(map(str, facts["labels"] or ())),
            classifier=_classifier_in_words(screen, Path(folder), facts, "head.weight" in shapes),
            shares=shares,
            by_class=facts["classes"] is not None,
            calibrated_on=next((shapes[part][0] for part in shares if part in shapes), 0),
            temperature=float(facts.get("temperature", 1)),
            floor=None if floor is None else Floor(**floor),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is a damaged guard: {error}") from error


def check_guard_file(path: Path, facts: Mapping[str, Any]) -> None:
    """Raise ArtifactError if the facts in a file's header are not those of a guard that this version reads."""
    if not isinstance(facts, dict) or facts.get("kind") != KIND or facts.get("schema") not in (1, SCHEMA):
        raise ArtifactError(f"{path} is not a guard ({KIND}, schema {SCHEMA})")


def _classifier_in_words(screen: "ScreenLike", folder: Path, facts: Mapping[str, Any], has_head: bool) -> str:
    detector: object = screen.detector
    if isinstance(detector, Exported) and detector.classes:
        return IN_GRAPH
    if has_head:
        return HEAD
    if facts.get("classifier") is not None:
        return f"an ONNX graph ({CLASSIFIER_FILE})"
    if facts.get("tuned") is not None:
        told = read_header(folder / TUNED_FILE)[1]
        made = told["architecture"]
        if isinstance(made, Mapping):
            return f"{made['name']} of {made['library']}, with its own head"
        return f"EfficientNet-{str(made).capitalize()}, fine-tuned"
    if facts.get("by_table"):
        return BY_TABLE
    return SENT
