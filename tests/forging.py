"""Screens as a forger would change them: every digest is right."""

import json
import shutil
from hashlib import sha256

import numpy as np
import pytest
from safetensors.numpy import save_file

import recondite
from recondite import ArtifactError
from recondite.data.artifacts import MANIFEST, digest_of, read_tensors


def forge(path, change=dict):
    """Change the manifest of a screen, and make all digests right again."""
    manifest = json.loads((path / MANIFEST).read_text())
    for name in manifest["files"]:
        content = (path / name).read_bytes()
        manifest["files"][name] = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    change(manifest)
    manifest["digest"] = digest_of(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def assert_refused(path, words="not a consistent"):
    """Expect that a screen is not loaded, and why."""
    with pytest.raises(ArtifactError, match=words):
        recondite.load(path)


def assert_graph_is_compared(graph, tmp_path):
    """Expect that an exported screen of images (1, 8, 8) is refused where its manifest tells of another graph."""
    path = shutil.copytree(graph, tmp_path / "forged")
    as_it_was = json.loads((path / MANIFEST).read_text())
    for change, words in (
        (lambda manifest: manifest.update(guard={"classes": ["a", "b"], "rules": ["r"]}), "lacks logits, rule_scores"),
        (lambda manifest: manifest["preprocessing"].update(shape=[1, 40, 40]), "expected pixels .1, 40, 40."),
        (lambda manifest: manifest["preprocessing"].update(shape=[8]), "expected pixels .8,.*got .1, 8, 8."),
        (lambda manifest: manifest.update(pixels="uint8"), "uint8; got .*float32"),
        (lambda manifest: manifest.update(pixels="pictures"), "pictures; got .*float32"),
        (lambda manifest: manifest["facts"].update(sample={"a": 1}), "not a consistent exported screen"),
    ):
        (path / MANIFEST).write_text(json.dumps(as_it_was))
        forge(path, change)
        assert_refused(path, words)
    (path / MANIFEST).write_text(json.dumps(as_it_was))
    run = recondite.load(path).detector.run_graph
    with pytest.raises(ArtifactError, match=r"the graph (cannot be run|gives instance_score of shape)"):
        run(["instance_score"], np.zeros((1, 3, 8, 8), np.float32))
    numbers, _ = read_tensors(path / "calibration.safetensors")
    save_file(numbers | {"scores": numbers["scores"].astype(np.int32)}, path / "calibration.safetensors")
    forge(path)
    assert_refused(path, "scores of shape .*int32; expected .any., float64")
