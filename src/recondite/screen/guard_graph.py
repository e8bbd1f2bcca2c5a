"""A guard's judgement as tensor operations that ONNX has, and an ONNX classifier put before it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recondite.errors import InputError
from recondite.graphs.runtimes import GUARD_OUTPUTS, INPUT, OUTPUTS, RULE_SCORES
from recondite.networks.hooks import over_places
from recondite.screen.classifier_outputs import CONFIDENCE
from recondite.screen.decisions import FOREIGN, INVALID, UNSURE
from recondite.screen.guard import SCREEN, Guard
from recondite.screen.linear_head import RULES, Rules
from recondite.screen.named_classifier import NamedClassifier
from recondite.screen.onnx_classifier import OnnxClassifier
from recondite.screen.screen import Screen
from recondite.screen.screen_graph import ScreenGraph, floats, number_set
from recondite.screen.tuned_classifier import TunedClassifier
from recondite.statistics.calibration import Calibrator, p_value_table, share_of
from recondite.statistics.classifier_scores import without_zeros

LOGITS_IN, FEATURES_IN = "classifier_logits", "classifier_features"
ABSTENTIONS = (None, FOREIGN, UNSURE, INVALID)
"""What the numbers of the output "abstention" mean."""
_PREFIX = "classifier/"
_LARGEST = float(np.finfo(np.float32).max)
_Said = Callable[[Tensor], tuple[Tensor, Tensor | None]]


class GuardGraph(nn.Module):
    """All of a guard's judgement: images (N, C, H, W) to `OUTPUTS` and `GUARD_OUTPUTS`.

    The module of an ONNX classifier takes its logits and features as further inputs; see `joined`.

    Args:
        guard: whose classes have names, on a screen whose graph can be written, and a classifier that sees images of
            that shape.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        assert isinstance(guard.screen, Screen)
        self.guard, self.inner = guard, ScreenGraph(guard.screen)
        self.rules = rules_of(guard)
        self.said: _Said | None = None
        if guard.head is None and not isinstance(guard.classifier, OnnxClassifier):
            self.network, self.said = said_by(guard.classifier)
        self.tables = nn.ModuleList([_Table(guard, part, calibrator) for part, calibrator in guard.calibrators.items()])

    def forward(
        self, pixels: Tensor, logits: Tensor | None = None, features: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the outputs, in the order of `outputs_of`."""
        guard, pixels = self.guard, floats(pixels)
        found, measured = self.inner.judged(pixels)
        score, _, p_value, is_outlier = found
        if guard.head is not None:
            assert measured.vectors is not None
            features, logits = measured.vectors, guard.head(measured.vectors)
        elif self.said is not None:
            logits, features = self.said(pixels)
        elif features is not None:
            features = over_places(features)
        assert logits is not None
        logits = without_zeros(logits)
        log_probability = logits.double().log_softmax(1)
        scores: dict[str, Tensor] = {SCREEN: score, CONFIDENCE: -log_probability.amax(1)}
        if self.rules:
            made = (guard.rules or Rules({}))(
                None if features is None else features.float(), logits.float(), self.rules
            )
            scores |= {name: value.double() for name, value in made.items()}
        parts = torch.stack([scores[part] for part in guard.shares], dim=1)
        valid = _all_finite(log_probability) & _all_finite(parts)
        predicted = logits.argmax(1)
        confidence = (logits.double() / guard.temperature).softmax(1).amax(1)
        flagged, p_values, foreign = is_outlier[:, None], p_value[:, None], is_outlier
        if guard.calibrators:
            judged = [table(parts[:, place], predicted) for place, table in enumerate(self.tables)]
            p_values, flagged, unknown = (torch.stack(some, dim=1) for some in zip(*judged, strict=True))
            foreign = number_set(flagged | unknown) > 0
        unsure = confidence < (0.0 if guard.floor is None else guard.floor.confidence)
        numbers = [torch.tensor(ABSTENTIONS.index(kind)) for kind in (None, UNSURE, FOREIGN, INVALID)]
        abstention = torch.where(unsure, numbers[1], numbers[0])
        abstention = torch.where(valid, torch.where(foreign, numbers[2], abstention), numbers[3])
        predicted = torch.where(valid, predicted, -1)
        label = torch.where(abstention == 0, predicted, -1)
        made_up = [scores[name] for name in self.rules]
        rule_scores = [torch.stack(made_up, dim=1).float()] if made_up else []
        return (*found, label, predicted, confidence, abstention, flagged, p_values, logits.float(), *rule_scores)


def rules_of(guard: Guard) -> tuple[str, ...]:
    """Return the names of the rules that have a share of alpha, in the order in which the graph gives them."""
    return tuple(name for name in RULES if name in guard.shares)


def outputs_of(guard: Guard) -> tuple[str, ...]:
    """Return the names of the outputs of a guard's graph, in order."""
    return (*OUTPUTS, *(name for name in GUARD_OUTPUTS if name != RULE_SCORES or rules_of(guard)))


def said_by(classifier: Any) -> tuple[nn.Module, _Said]:
    """Return a classifier's network, and what gives its logits (N, K) and features as tensor operations.

    Raises:
        InputError: it is a function, which has no graph.
    """
    if isinstance(classifier, TunedClassifier):
        tuned = classifier

        def by_means(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
            return tuned.told(tuned.backbone(pixels))

        return tuned.backbone, by_means
    if isinstance(classifier, NamedClassifier):
        return classifier.network, classifier.together
    if isinstance(classifier, nn.Module):
        module = classifier

        def by_itself(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
            return module(pixels), None

        return module, by_itself
    raise InputError("a classifier that is a function cannot be exported: give a torch module or an ONNX file")


class _Table(nn.Module):
    """The calibration of a part: scores (N,) and predicted classes (N,) to p-values and flags, and classes unknown."""

    ascending: Tensor
    table: Tensor
    thresholds: Tensor
    group: Tensor

    def __init__(self, guard: Guard, part: str, calibrator: Calibrator) -> None:
        super().__init__()
        screen, classes = guard.screen, guard.classes or ()
        groups = {name: place for place, name in enumerate(calibrator.sizes)}
        longest = max(calibrator.sizes.values())
        ascending, table = np.full((len(groups), longest), -np.inf), np.ones((len(groups), longest + 1))
        alpha, promise = share_of(screen.alpha, guard.shares[part]), (screen.confidence, screen.guarantee)
        for name, place in groups.items():
            own = np.sort([score for score, group in _labelled(calibrator) if group == name])
            ascending[place, longest - len(own) :] = own
            table[place, : len(own) + 1] = p_value_table(len(own), *promise)
        thresholds = np.array([calibrator.threshold(alpha, *promise, group=name) for name in groups])
        places = [groups.get(name, -1) if guard.by_class else 0 for name in classes]
        for name, value in (("ascending", ascending), ("table", table), ("thresholds", thresholds), ("group", places)):
            self.register_buffer(name, torch.from_numpy(np.array(value)))

    def forward(self, scores: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        group = self.group[predicted]
        unknown, place = group < 0, group.clamp(min=0)
        # What is missing in the group of a row is minus infinity, which no score reaches down to.
        at_least = number_set(self.ascending[place] >= scores[:, None])
        flagged = ~(scores <= self.thresholds[place]) & ~unknown
        return torch.where(unknown, torch.nan, self.table[place, at_least]), flagged, unknown


def _labelled(calibrator: Calibrator) -> list[tuple[float, str | None]]:
    groups = calibrator.groups or [None] * len(calibrator.scores)
    return list(zip(calibrator.scores.tolist(), groups, strict=True))


def _all_finite(values: Tensor) -> Tensor:
    """Return which rows of (N, M) are finite throughout."""
    return number_set(values.abs() <= _LARGEST) == values.shape[1]


def joined(graph: bytes, classifier: OnnxClassifier) -> bytes:
    """Return the graph of a guard with that of its ONNX classifier before it, in place of its further inputs.

    Args:
        graph: of `GuardGraph`, with inputs `INPUT`, `LOGITS_IN` and, where the classifier has features, `FEATURES_IN`.
        classifier: takes float32 images of the screen's shape, any number of them.

    Raises:
        InputError: the two graphs do not go together.
    """
    import onnx

    after, before = onnx.load_from_string(graph), onnx.load_from_string(classifier.graph)
    versions: Mapping[str, int] = {one.domain: one.version for one in after.opset_import}
    try:
        if {one.version for one in before.opset_import if not one.domain} != {versions[""]}:
            before = onnx.version_converter.convert_version(before, versions[""])
        before = onnx.compose.add_prefix(before, _PREFIX)
        before.ir_version = after.ir_version = max(before.ir_version, after.ir_version)
        (taken,), outputs = before.graph.input, before.graph.output
        further = [one.name for one in after.graph.input if one.name != INPUT]
        pairs = [(outputs[place].name, name) for place, name in enumerate(further)]
        merged = onnx.compose.merge_models(
            before, after, io_map=pairs, outputs=[one.name for one in after.graph.output]
        )
        kind = next(one for one in merged.graph.input if one.name == INPUT).type.tensor_type.elem_type
        make, floats_kind = onnx.helper.make_node, onnx.TensorProto.FLOAT
        if kind == floats_kind:
            nodes = [make("Identity", [INPUT], [taken.name])]
        else:
            scale = onnx.numpy_helper.from_array(np.array(255, np.float32), f"{_PREFIX}255")
            merged.graph.initializer.append(scale)
            nodes = [
                make("Cast", [INPUT], [f"{_PREFIX}floats"], to=floats_kind),
                make("Div", [f"{_PREFIX}floats", scale.name], [taken.name]),
            ]
        for node in reversed(nodes):
            merged.graph.node.insert(0, node)
        kept = [one for one in merged.graph.input if one.name == INPUT]
        del merged.graph.input[:]
        merged.graph.input.extend(kept)
        onnx.checker.check_model(merged)
    except Exception as error:  # onnx raises types of its own, and those of its C++ part
        raise InputError(f"the graph of the classifier cannot be joined with the screen's: {error}") from error
    content: bytes = merged.SerializeToString()
    return content
