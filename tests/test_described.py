"""A saved screen as its files describe it."""

import numpy as np
import pytest

from recondite.data.images import Preprocessing
from recondite.errors import ArtifactError
from recondite.screen import described as file
from recondite.screen.described import described
from recondite.screen.saved import CALIBRATION_FILE, DETECTOR_FILE, EXPORTED, KIND

MANIFEST = {
    **{"kind": KIND, "schema": 2, "detector": "pca", "options": {}, "own_modules": False, "alpha": 0.1},
    **{"preprocessing": Preprocessing(shape=(1, 8, 8)).to_json(), "confidence": None, "guarantee": "exact"},
    **{"score": "auto", "evidence": {"classifier": False, "statistics": ["mean"]}, "facts": {"a": 1}},
    **{"history": {"epochs": [], "best_epoch": 0}, "thresholds": [], "groups": None},
    **{"versions": {}, "files": {}, "digest": "digest"},
}


def found(monkeypatch, manifest):
    files = {DETECTOR_FILE: {}, CALIBRATION_FILE: {"scores": np.arange(20.0)}}
    monkeypatch.setattr(file, "existing", lambda path: path)
    monkeypatch.setattr(file, "read_folder", lambda *_: (manifest, files))
    monkeypatch.setattr(file, "load", lambda path: f"loaded {path}")
    return described("folder")


def test_what_runs_on_a_graph_is_loaded_and_all_else_is_told_of(monkeypatch):
    assert found(monkeypatch, {**MANIFEST, "kind": EXPORTED}) == "loaded folder"
    screen = found(monkeypatch, MANIFEST)
    assert (screen.alpha, screen.score, screen.threshold) == (0.1, "auto", 18.0)
    assert screen.scores == ("auto", "evidence", "error", "mean")
    told = screen.to_json()
    assert told == {
        name: value for name, value in MANIFEST.items() if name not in ("groups", "versions", "files", "digest")
    }
    plain = found(monkeypatch, {**MANIFEST, "evidence": None, "score": "error"})
    assert (plain.evidence, plain.scores) == (None, ("error",))
    with pytest.raises(ArtifactError, match="folder is not a consistent screen"):
        found(monkeypatch, {**MANIFEST, "history": None})
