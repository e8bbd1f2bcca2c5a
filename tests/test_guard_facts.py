"""What the file of a guard says of it, without torch."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from classifiers import write_classifier
from test_cold_start import run_without_torch

from recondite.data.artifacts import read_header, read_tensors, write_tensors
from recondite.errors import ArtifactError
from recondite.graphs.exported import Exported
from recondite.networks.two_endings import TwoEndings
from recondite.screen.guard import Guard
from recondite.screen.guard_facts import TUNED_FILE, guard_facts
from recondite.screen.guard_file import load_guard, save_guard
from recondite.screen.linear_head import LinearHead
from recondite.screen.onnx_classifier import read_classifier
from recondite.screen.saved import GUARD_FILE
from recondite.screen.tuned_classifier import TunedClassifier
from recondite.statistics.calibration import Calibrator
from recondite.statistics.selective import Floor

LABELS = ("dark", "light")
FLOOR = Floor(confidence=0.75, risk=0.05, delta=0.1, accepted=90, wrong=1, of=100)


@pytest.fixture
def guard(screens):
    groups = tuple(np.repeat(LABELS, 60))
    return Guard(
        screen=screens("pca"),
        classifier=None,
        classes=LABELS,
        shares={"screen": 0.25, "confidence": 0.75},
        calibrators={part: Calibrator(np.arange(120.0), groups) for part in ("screen", "confidence")},
        by_class=True,
        head=LinearHead(torch.zeros(2, 3), torch.zeros(2)),
        temperature=1.5,
        floor=FLOOR,
    )


def test_info_shows_a_guard_without_torch(guard, tmp_path):
    guard.screen.save(tmp_path)
    save_guard(guard, tmp_path)
    codes, printed, errors = run_without_torch(["info", "digits"], ["info", tmp_path], ["info", tmp_path, "--json"])
    assert codes == [0] * 3, errors
    assert printed.count("its guard") == 1
    table, told = printed.split("\n{", 1)
    lines = [" ".join(line.split()) for line in table.split("its guard")[1].splitlines()]
    for line in (
        "classes 2: dark, light",
        "classifier a linear head on the screen's backbone",
        "parts screen (0.25 of alpha), confidence (0.75 of alpha)",
        "calibrated on 120 images, by predicted class",
        "temperature 1.5",
        "lowest confidence 0.75",
        f"promise {FLOOR.sentence}",
    ):
        assert line in lines
    said = json.loads("{" + told)
    assert said["detector"] == "pca"
    assert said["guard"] == {
        "classes": ["dark", "light"],
        "classifier": "a linear head on the screen's backbone",
        "shares": {"screen": 0.25, "confidence": 0.75},
        "by_class": True,
        "calibrated_on": 120,
        "temperature": 1.5,
        "floor": {"confidence": 0.75, "risk": 0.05, "delta": 0.1, "accepted": 90, "wrong": 1, "of": 100},
    }


def test_the_kind_of_classifier_is_told(guard, tmp_path):
    def told(one):
        save_guard(one, tmp_path)
        return guard_facts(one.screen, tmp_path)

    bare = replace(
        guard, head=None, temperature=1.0, shares={"screen": 1.0}, calibrators={}, by_class=False, floor=None
    )
    plain = told(bare)
    assert plain.classifier == "none of its own: its labels are sent"
    assert (plain.calibrated_on, plain.by_class, plain.floor) == (0, False, None)
    assert told(replace(bare, classes=None)).classes == ()
    assert told(replace(bare, by_table=True)).classifier == "a table of outputs (guard predict --outputs)"
    onnx = read_classifier(write_classifier(tmp_path / "given.onnx", 8))
    assert told(replace(bare, classifier=onnx)).classifier == "an ONNX graph (classifier.onnx)"
    network = TwoEndings("lite0", 1, 32).requires_grad_(False)
    tuned = TunedClassifier(network, "lite0", torch.rand(2, 1280), torch.rand(2), (3, 8, 8))
    assert told(replace(bare, classifier=tuned)).classifier == "EfficientNet-Lite0, fine-tuned"
    architecture = {"architecture": {"library": "timm", "name": "resnet18"}}
    write_tensors(tmp_path / TUNED_FILE, {}, architecture)
    assert guard_facts(bare.screen, tmp_path).classifier == "resnet18 of timm, with its own head"
    graph = object.__new__(Exported)
    graph.classes = 2
    save_guard(bare, tmp_path)
    assert guard_facts(Alone(graph), tmp_path).classifier == "in one graph with the screen"


class Alone:
    def __init__(self, detector):
        self.detector = detector


def test_a_damaged_guard_is_told_as_where_it_is_loaded(guard, tmp_path):
    save_guard(guard, tmp_path)
    tensors, facts = read_tensors(tmp_path / GUARD_FILE)
    assert read_header(tmp_path / GUARD_FILE) == ({name: one.shape for name, one in tensors.items()}, facts)
    for change, words in (({"kind": "x"}, "is not a guard"), ({"shares": 1}, "damaged"), ({"floor": {}}, "damaged")):
        write_tensors(tmp_path / GUARD_FILE, tensors, facts | change)
        for read in (guard_facts, load_guard):
            with pytest.raises(ArtifactError, match=words):
                read(guard.screen, tmp_path)
    (tmp_path / GUARD_FILE).write_bytes(b"x")
    with pytest.raises(ArtifactError, match="not a readable"):
        guard_facts(guard.screen, tmp_path)
