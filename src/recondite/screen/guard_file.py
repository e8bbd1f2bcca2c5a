"""A guard's calibration as a file beside its screen; its classifier stays where it is."""

from pathlib import Path

import numpy as np

from recondite.data.artifacts import read_tensors, write_tensors
from recondite.errors import ArtifactError, InputError
from recondite.screen.guard import CONFIDENCE, FEATURES, SCREEN, Guard
from recondite.screen.screen import Screen
from recondite.statistics.calibration import Calibrator

GUARD_FILE = "guard.safetensors"
_KIND, _SCHEMA = "recondite guard", 1
_GROUPS = "groups"


def save_guard(guard: Guard, folder: Path | str) -> None:
    """Write a guard's calibration into the folder of its screen, atomically; the classifier is not written.

    Args:
        guard: whose classifier gives its labels and confidences somewhere else, such as where images are sent from.
        folder: where `Screen.save` wrote the screen.

    Raises:
        InputError: the guard looks at features, or its screen was not loaded or fitted here.
    """
    if FEATURES in guard.shares:
        raise InputError(
            "a guard that looks at the classifier's features cannot be saved: they stay with the classifier"
        )
    if not isinstance(guard.screen, Screen):
        raise InputError(f"expected a guard of a Screen; got one of {type(guard.screen).__name__}")
    tensors = {part: calibrator.scores for part, calibrator in guard.calibrators.items()}
    classes = sorted(set(guard.calibrators[SCREEN].groups or ())) if guard.calibrators else []
    if guard.by_class:
        places = {name: place for place, name in enumerate(classes)}
        tensors[_GROUPS] = np.array([places[one] for one in guard.calibrators[SCREEN].groups or ()], dtype=np.int32)
    facts = {
        **{"kind": _KIND, "schema": _SCHEMA, "screen": guard.screen.fingerprint()},
        "labels": None if guard.labels is None else list(guard.labels),
        "shares": dict(guard.shares),
        "classes": classes if guard.by_class else None,
    }
    write_tensors(Path(folder) / GUARD_FILE, tensors, facts)


def load_guard(screen: Screen, folder: Path | str) -> Guard:
    """Return the guard that `save_guard` wrote beside a screen, without its classifier; see `Guard.decide`.

    Where there is none, the screen's own verdict decides.

    Raises:
        ArtifactError: the file is damaged, or is of another screen or calibration.
    """
    path = Path(folder) / GUARD_FILE
    if not path.exists():
        return Guard(screen=screen, classifier=None)
    tensors, facts = read_tensors(path)
    if (facts.get("kind"), facts.get("schema")) != (_KIND, _SCHEMA):
        raise ArtifactError(f"{path} is not a guard ({_KIND}, schema {_SCHEMA})")
    if facts.get("screen") != screen.fingerprint():
        raise ArtifactError(f"{path} is of another screen, score or calibration: make it anew")
    try:
        shares = {str(part): float(share) for part, share in facts["shares"].items()}
        labels, classes = facts["labels"], facts["classes"]
        if set(shares) - {SCREEN, CONFIDENCE} or not np.isclose(sum(shares.values()), 1) or min(shares.values()) <= 0:
            raise ValueError(f"shares {shares}")
        groups = None if classes is None else tuple(str(classes[place]) for place in tensors.pop(_GROUPS).tolist())
        if tensors and set(tensors) != set(shares):
            raise ValueError(f"calibration of {sorted(tensors)}")
        return Guard(
            screen=screen,
            classifier=None,
            labels=None if labels is None else tuple(map(str, labels)),
            shares=shares,
            calibrators={part: Calibrator(tensors[part].astype(np.float64), groups) for part in tensors},
            by_class=classes is not None,
        )
    except (AttributeError, IndexError, InputError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is a damaged guard: {error}") from error
