"""A guard as one graph for onnxruntime or OpenVINO, from pixels to label, confidence and reason."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recondite.data.artifacts import written_together
from recondite.data.datasets import nameless
from recondite.errors import InputError
from recondite.graphs.exported import PixelType, probe_images
from recondite.graphs.runtimes import RuntimeName, import_openvino
from recondite.screen.classifier_outputs import CONFIDENCE, FEATURES, Answers, Told
from recondite.screen.export import (
    TOLERANCE,
    check_agreement,
    options_of,
    raised,
    runnable,
    spread_of,
    target,
    with_room,
    written,
)
from recondite.screen.guard import SCREEN, Guard
from recondite.screen.guard_file import save_guard
from recondite.screen.guard_graph import (
    ABSTENTIONS,
    FEATURES_IN,
    LOGITS_IN,
    GuardGraph,
    joined,
    outputs_of,
    rules_of,
    said_by,
)
from recondite.screen.linear_head import LOGIT_RULES
from recondite.screen.onnx_classifier import OnnxClassifier
from recondite.screen.openvino import serialised
from recondite.screen.screen import Screen
from recondite.screen.screen_graph import example_of, traced
from recondite.statistics.calibration import share_of
from recondite.statistics.scores import Scores
from recondite.torch_state import own_settings

_OF_LOGITS = (CONFIDENCE, *LOGIT_RULES)
_ROUNDING = 2.0**-16
"""Of the largest logit: what rounding may make of a score of logits, however little those of sure images differ."""


@own_settings()
def export_guard(guard: Guard, path: Path | str, *, to: RuntimeName = "onnx", pixels: PixelType = "float32") -> Path:
    """Write a guard as a folder with one graph, which `load_guard`, `recondite guard predict` and `serve` run.

    The graph takes pixels (N, C, H, W), as `export_onnx` writes it, and gives what that gives and: label int64 (N,), a
    number among the guard's classes, -1 for an abstention; predicted int64 (N,), the classifier's own; confidence
    float64 (N,); abstention int64 (N,), 0 for none, 1 foreign, 2 unsure, 3 invalid; flagged bool and part_p_value
    float64 (N, P), of each part; logits float32 (N, K); rule_scores float32 (N, R), of the rules among the parts.
    "guard" in manifest.json names classes, parts, rules and limits, for other programs.

    Each part's scores agree with the guard's own as those of `export_onnx` do, within `TOLERANCE`, which is looked at
    before anything is written; labels agree for images that are farther from each threshold. A classifier's ONNX graph
    is joined with the screen's.

    Args:
        guard: whose classes have names, with a classifier that sees images of the screen's size: a linear head, one
            with fine-tuned blocks, one of timm or transformers, one as ONNX, or a torch module without a layer for
            features.
        path: the folder, replaced if it is a screen.
        to: "onnx" or "openvino".
        pixels: as in `export_onnx`.

    Returns:
        The folder.

    Raises:
        InputError: a guard that cannot be exported, or packages are not installed.
        ArtifactError: `path` exists and is not a screen.
        RuntimeError: the graph's scores differ from the guard's.
    """
    screen = guard.screen
    assert isinstance(screen, Screen)
    path = target(screen, path, pixels)
    guard = _exportable(guard)
    screen = with_room(screen)
    guard = replace(guard, screen=screen, calibrators={part: raised(one) for part, one in guard.calibrators.items()})
    content = [_graph(guard, pixels)]
    if to == "openvino":
        content = serialised(import_openvino().Core().read_model(content[0]))
    rules = rules_of(guard)
    classes = len(guard.classes or ())
    on_graph = runnable(screen, content, pixels, options_of(screen, to), classes, rules)
    exported = replace(guard, screen=on_graph, classifier=None, head=None, rules=None, shape=None)
    _check_parity(guard, exported)
    with written_together(path) as folder:
        written(on_graph, screen, folder, pixels, _described(guard, rules))
        save_guard(exported, folder)
    return path


def _exportable(guard: Guard) -> Guard:
    """Return a guard with names for its classes, after all refusals."""
    screen, classifier = guard.screen, guard.classifier
    if guard.by_table or isinstance(classifier, Told):
        raise InputError("this guard's classifier is a table of outputs: there is nothing to export beside the screen")
    if not guard.speaks:
        raise InputError("this guard has no classifier of its own: there is nothing to export beside the screen")
    if FEATURES in guard.shares:
        raise InputError(
            "part 'features' of the guard, the neighbours of features of a layer of your classifier, cannot be "
            "exported: fit the guard with the classifier as an ONNX file whose second output are its features"
        )
    if guard.head is None and guard.seen.shape != screen.detector.shape:
        raise InputError(
            f"the classifier takes images {guard.seen.shape} and the screen {screen.detector.shape}, and one graph "
            f"takes one size: fit the screen with --image-size {guard.seen.shape[1]}x{guard.seen.shape[2]}"
        )
    if guard.head is None and screen.detector.preprocessing.region is not None:
        raise InputError(
            "the screen sees a region of each image and the classifier all of it, and one graph takes one image: fit "
            "the guard on a screen without a region, or export the screen alone (--no-guard)"
        )
    if isinstance(classifier, OnnxClassifier) and classifier.together is not None:
        raise InputError(
            f"the classifier's graph takes {classifier.together} images at once and no other number: export it with a "
            f"batch of any size"
        )
    if guard.head is None and not isinstance(classifier, OnnxClassifier):
        said_by(classifier)
    if guard.classes is not None:
        return guard
    count = len(_probed(guard)[1].logits[0])
    return replace(guard, classes=tuple(str(number) for number in range(count)))


def _graph(guard: Guard, pixels: PixelType) -> bytes:
    assert isinstance(guard.screen, Screen)
    examples = example_of(guard.screen, pixels)
    classifier = guard.classifier
    if not isinstance(classifier, OnnxClassifier):
        return traced(GuardGraph(guard), examples, outputs_of(guard))
    (black,) = examples.values()
    for name, some in zip((LOGITS_IN, FEATURES_IN), classifier.raw(torch.zeros(black.shape)), strict=False):
        examples[name] = some
    if not set(rules_of(guard)) - {"max_logit", "energy"}:
        examples.pop(FEATURES_IN, None)
    return joined(traced(GuardGraph(guard), examples, outputs_of(guard)), classifier)


def _probed(guard: Guard) -> tuple[Scores, Answers]:
    """Return the scores and answers for images of noise."""
    batch = nameless(probe_images(guard.detector.shape, np.float32))
    return guard.heard(guard.score_batch(batch), batch)


def _check_parity(guard: Guard, exported: Guard) -> None:
    """Raise RuntimeError if the graph does not judge noise as the guard does."""
    (ours, our_answers), (theirs, their_answers) = _probed(guard), _probed(exported)
    our_parts, their_parts = guard.scores(ours, our_answers), exported.scores(theirs, their_answers)
    largest = float(np.abs(our_answers.logits).max())
    for part in guard.shares:
        spread = spread_of(guard.calibrators.get(part, guard.screen.calibrator))
        if part in _OF_LOGITS:
            spread = max(spread, _ROUNDING / TOLERANCE * largest)
        check_agreement(f"part {part!r} of the graph", our_parts[part], their_parts[part], spread, "the guard's")
    check_agreement("the graph's logits", our_answers.logits, their_answers.logits, largest, "the classifier's")


def _described(guard: Guard, rules: tuple[str, ...]) -> dict[str, Any]:
    """Return what other programs need to know of the graph's outputs, as JSON values."""
    return {
        "classes": list(guard.classes or ()),
        "parts": list(guard.shares),
        "rules": list(rules),
        "limits": {part: share_of(guard.screen.alpha, share) for part, share in guard.shares.items()},
        "abstention": list(ABSTENTIONS),
        "floor": None if guard.floor is None else asdict(guard.floor),
        "tolerance": TOLERANCE,
        "screen_decides": not guard.calibrators and SCREEN in guard.shares,
    }
