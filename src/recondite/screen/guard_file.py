"""A guard's calibration in a file beside its screen, with its linear head, rules and ONNX classifier, if any."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from recondite.data.artifacts import check_finite, read_tensors, tensor_of, write_tensors
from recondite.data.files import atomic_file
from recondite.data.images import Preprocessing
from recondite.errors import ArtifactError, InputError
from recondite.graphs.exported import Exported
from recondite.screen.classifier_outputs import CONFIDENCE, FEATURES
from recondite.screen.guard import SCREEN, Guard
from recondite.screen.guard_facts import CLASSIFIER_FILE, KIND, SCHEMA, TUNED_FILE, check_guard_file
from recondite.screen.linear_head import LOGIT_RULES, RULES, Rules, from_tensors, tensors_of
from recondite.screen.named_classifier import NamedClassifier
from recondite.screen.onnx_classifier import OnnxClassifier, read_classifier
from recondite.screen.saved import GUARD_FILE
from recondite.screen.screen_like import ScreenLike
from recondite.screen.tuned_classifier import Kept, TunedClassifier, tuned_from
from recondite.statistics.calibration import Calibrator
from recondite.statistics.selective import Floor

_GROUPS, _CONFUSION = "groups", "confusion"
_NO_PARTS = ("head.", "rules.", _GROUPS, _CONFUSION)


def save_guard(guard: Guard, folder: Path | str) -> None:
    """Write a guard's calibration into the folder of its screen, atomically, with its linear head or ONNX classifier.

    Args:
        guard: one whose classifier is neither gets its labels and confidences from somewhere else, such as where images
            are sent from.
        folder: where `Screen.save` wrote the screen.

    Raises:
        InputError: the guard looks at features or logits of a classifier of yours, or its screen was not loaded or
            fitted here.
    """
    onnx = guard.classifier if isinstance(guard.classifier, OnnxClassifier) else None
    tuned = guard.classifier if isinstance(guard.classifier, TunedClassifier | NamedClassifier) else None
    kept = guard.in_one_pass or isinstance(guard.classifier, Kept) or guard.by_table
    if FEATURES in guard.shares or (set(guard.shares) - {SCREEN, CONFIDENCE} and not kept):
        raise InputError(
            "a guard that looks at the classifier's features cannot be saved: they stay with the classifier"
        )
    if guard.temperature != 1 and not kept:
        raise InputError("a guard with a temperature needs the logits: it cannot be saved without its classifier")
    if not hasattr(guard.screen, "fingerprint"):
        raise InputError(f"expected a guard of a Screen; got one of {type(guard.screen).__name__}")
    tensors = {
        **{part: calibrator.scores for part, calibrator in guard.calibrators.items()},
        **tensors_of(guard.head, guard.rules),
    }
    if guard.confusion is not None:
        tensors[_CONFUSION] = guard.confusion
    groups = next(iter(guard.calibrators.values())).groups if guard.calibrators else None
    classes = sorted(set(groups or ()))
    if guard.by_class:
        places = {name: place for place, name in enumerate(classes)}
        tensors[_GROUPS] = np.array([places[one] for one in groups or ()], dtype=np.int32)
    facts = {
        **{"kind": KIND, "schema": SCHEMA, "screen": guard.screen.fingerprint()},
        "labels": None if guard.classes is None else list(guard.classes),
        "shares": dict(guard.shares),
        "classes": classes if guard.by_class else None,
        "shape": None if guard.shape is None else list(guard.shape),
        "temperature": guard.temperature,
        "floor": None if guard.floor is None else asdict(guard.floor),
        "classifier": None if onnx is None else hashlib.sha256(onnx.graph).hexdigest(),
        "tuned": None,
        **({"by_table": True} if guard.by_table else {}),
    }
    if tuned is not None:
        write_tensors(Path(folder) / TUNED_FILE, tuned.tensors(), tuned.facts())
        facts["tuned"] = hashlib.sha256((Path(folder) / TUNED_FILE).read_bytes()).hexdigest()
    if onnx is not None:
        with atomic_file(Path(folder) / CLASSIFIER_FILE) as temporary:
            temporary.write_bytes(onnx.graph)
    write_tensors(Path(folder) / GUARD_FILE, tensors, facts)


def load_guard(screen: ScreenLike, folder: Path | str) -> Guard:
    """Return the guard that `save_guard` wrote beside a screen; see `Guard.decide` for one without its classifier.

    Where there is none, the screen's own verdict decides.

    Raises:
        ArtifactError: the file is damaged, or is of another screen or calibration.
    """
    path = Path(folder) / GUARD_FILE
    if not path.exists():
        return Guard(screen=screen, classifier=None)
    tensors, facts = read_tensors(path)
    check_finite(tensors, path)
    check_guard_file(path, facts)
    if facts.get("screen") != screen.fingerprint():
        raise ArtifactError(f"{path} is of another screen, score or calibration: make it anew")
    try:
        shares = {str(part): float(share) for part, share in facts["shares"].items()}
        labels, classes = facts["labels"], facts["classes"]
        if isinstance(labels, str) or len({*map(str, labels or ())}) < len(labels or ()):
            raise ValueError(f"labels {labels!r}")
        if (
            set(shares) - {SCREEN, CONFIDENCE, *RULES}
            or not np.isclose(sum(shares.values()), 1)
            or min(shares.values()) <= 0
        ):
            raise ValueError(f"shares {shares}")
        groups, confusion = None, None
        if classes is not None:
            places = tensor_of(tensors, _GROUPS, np.int32, None)
            if places.min() < 0:
                raise ValueError("groups of no class")
            groups = tuple(str(classes[place]) for place in places.tolist())
        if _CONFUSION in tensors:
            confusion = tensor_of(tensors, _CONFUSION, np.int64, len(labels), len(labels))
            if confusion.min() < 0:
                raise ValueError("negative counts of classes")
        head, rules = from_tensors(tensors)
        if head is not None and len(head.bias) != len(labels):
            raise ValueError(f"a head of {len(head.bias)} classes for {len(labels)} labels")
        graph: object = screen.detector
        graph_rules = graph.rules if isinstance(graph, Exported) else ()
        if isinstance(graph, Exported) and (
            graph.classes not in (0, len(labels or ())) or set(shares) - {SCREEN, CONFIDENCE, *graph_rules}
        ):
            raise ValueError(f"a graph of {graph.classes} classes, rules {graph_rules}")
        tensors = {name: tensors[name] for name in tensors if not name.startswith(_NO_PARTS)}
        if tensors and set(tensors) != set(shares):
            raise ValueError(f"calibration of {sorted(tensors)}")
        rules = rules or (Rules({}) if set(shares) & {*LOGIT_RULES} - {*graph_rules} else None)
        if set(shares) & {*RULES} - {*LOGIT_RULES, *graph_rules} and not (rules and rules.tensors):
            raise ValueError("rules without their numbers")
        if not tensors and SCREEN not in shares:
            raise ValueError(f"parts without calibration: {', '.join(shares)}")
        shape, floor, temperature = facts.get("shape"), facts.get("floor"), float(facts.get("temperature", 1))
        if not temperature > 0:
            raise ValueError(f"a temperature of {temperature:g}")
        return Guard(
            screen=screen,
            classifier=_classifier(Path(folder), facts.get("classifier"), facts.get("tuned")),
            classes=None if labels is None else tuple(map(str, labels)),
            shares=shares,
            calibrators={
                part: Calibrator(tensor_of(tensors, part, np.float64, None), groups)
                for part in shares
                if part in tensors
            },
            by_class=classes is not None,
            shape=None if shape is None else Preprocessing(shape=tuple(map(int, shape))).shape,
            head=head,
            rules=rules,
            temperature=temperature,
            floor=None if floor is None else Floor(**floor),
            confusion=confusion,
            by_table=bool(facts.get("by_table", False)),
        )
    except (AttributeError, IndexError, InputError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is a damaged guard: {error}") from error


def _classifier(folder: Path, onnx: str | None, tuned: str | None) -> Kept | None:
    """Return the ONNX or fine-tuned classifier of a guard, by the digest of its file, if it has one."""
    if onnx is not None:
        return read_classifier(_checked(folder / CLASSIFIER_FILE, onnx))
    if tuned is None:
        return None
    tensors, facts = read_tensors(_checked(folder / TUNED_FILE, tuned))
    check_finite(tensors, folder / TUNED_FILE)
    return tuned_from(tensors, facts)


def _checked(path: Path, digest: str) -> Path:
    if path.is_symlink() or not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise ArtifactError(f"{path} is missing, or another one than the guard was made with")
    return path
