"""Guards of a classifier whose outputs come as a table, joined to the images by their names."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from classifiers import write_classifier
from PIL import Image

import recondite
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.errors import InputError
from recondite.screen.classifier_outputs import Outputs, Told, read_outputs
from recondite.screen.guard_file import load_guard, save_guard
from recondite.screen.guard_fit import fit_guard
from recondite.screen.onnx_classifier import read_classifier

NAMES = ("blue", "red")


def coloured(count, seed, prefix):
    """Noisy images (3, 8, 8), reddish or bluish, with names and classes."""
    draws = np.random.default_rng(seed)
    red = draws.integers(0, 2, count)
    base = np.array([(0.3, 0.3, 0.7), (0.7, 0.3, 0.3)])[red][:, :, None, None]
    noisy = base + draws.normal(0, 0.1, (count, 3, 1, 1)) + draws.normal(0, 0.1, (count, 3, 8, 8))
    images = (np.clip(noisy, 0, 1) * 255).astype(np.uint8)
    ids = [f"{prefix}{index}" for index in range(count)]
    return replace(open_images(list(images)), ids=ids, labels=[NAMES[place] for place in red]), images


@pytest.fixture(scope="module")
def learnt():
    return coloured(80, 1, "learnt")


@pytest.fixture(scope="module")
def held():
    return coloured(200, 2, "held")


@pytest.fixture(scope="module")
def screen(learnt):
    return recondite.fit(learnt[1], detector="pca", latent_size=4, alpha=0.1, group_by="none", score="error")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return read_classifier(write_classifier(tmp_path_factory.mktemp("classifier") / "c.onnx", 8))


def outputs_of(classifier, *sets):
    ids = [name for opened, _ in sets for name in opened.ids]
    pixels = np.concatenate([images for _, images in sets])
    logits, features = classifier.outputs(torch.from_numpy((pixels / 255).astype(np.float32)))
    return Outputs(
        ids=tuple(ids), logits=logits.double().numpy(), labels=np.full(len(ids), -1), features=features.double().numpy()
    )


def test_a_table_decides_as_the_classifier_that_it_comes_from(screen, classifier, learnt, held, tmp_path):
    given = {"screen": screen, "calibration": held[0], "group_by": "none", "parts": ("screen", "knn", "confidence")}
    by_file = fit_guard(learnt[0], classifier=classifier, risk=0.2, classes=("red", "blue"), **given).guard
    table = Told(outputs_of(classifier, learnt, held))
    by_table = fit_guard(learnt[0], classifier=table, risk=0.2, classes=("red", "blue"), **given).guard
    assert by_table.floor == by_file.floor
    new, images = coloured(60, 3, "new")
    expected = by_file(new)
    assert 0 < expected.abstained.sum() < 60
    screen.save(tmp_path / "guard")
    save_guard(by_table, tmp_path / "guard")
    loaded = load_guard(recondite.load(tmp_path / "guard"), tmp_path / "guard")
    with pytest.raises(InputError, match="no classifier: give a table of its outputs"):
        loaded(new)
    with pytest.raises(InputError, match="from a table"):
        loaded.decide(screen.predict(images[:1]), ["red"], [0.9])
    for guard in (by_table, loaded):
        found = guard.told(outputs_of(classifier, (new, images)))(new)
        assert found.reasons == expected.reasons
        assert found.labels == expected.labels
        np.testing.assert_array_equal(found.confidence, expected.confidence)
    with pytest.raises(InputError, match="lack 60 of 60 images"):
        by_table(new)
    with pytest.raises(InputError, match="speaks for itself"):
        by_file.told(table.outputs)


def test_unless_parts_are_named_a_guard_by_a_table_looks_at_its_screen_and_at_features(
    screen, classifier, learnt, held
):
    table = Told(outputs_of(classifier, learnt, held))
    plain = Told(replace(table.outputs, features=None))
    for told, parts in ((table, ["screen", "mahalanobis"]), (plain, ["screen"])):
        assert fit_guard(learnt[0], screen=screen, classifier=told, calibration=held[0]).facts["parts"] == parts
    with pytest.raises(InputError, match=r"expected parts among screen, confidence, max_logit, \w+; got knn"):
        fit_guard(learnt[0], screen=screen, classifier=plain, calibration=held[0], parts=["knn"])
    with pytest.raises(InputError, match="'learnt0' is an image to learn from and a calibration image"):
        fit_guard(
            learnt[0],
            screen=screen,
            classifier=table,
            calibration=replace(held[0], ids=list(learnt[0].ids) + list(held[0].ids[80:])),
        )


def test_a_table_of_probabilities_on_the_command_line(screen, classifier, learnt, held, tmp_path, capsys):
    screen.save(tmp_path / "screen")
    for name, (opened, images) in {"learnt": learnt, "held": held}.items():
        for one, image, label in zip(opened.ids, images, opened.labels, strict=True):
            path = tmp_path / name / label / f"{one}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path)
    said = outputs_of(classifier, learnt, held)
    label = dict(zip(said.ids, learnt[0].labels + held[0].labels, strict=True))
    shares = torch.from_numpy(said.logits).softmax(1).numpy()[:, ::-1]  # of blue, of red
    with (tmp_path / "said.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "probability.0", "probability.1"])
        rows.writerows([f"{label[one]}/{one}.png", *share] for one, share in zip(said.ids, shares, strict=True))
    guard, table = str(tmp_path / "guard"), str(tmp_path / "said.csv")
    fit = ["guard", "fit", str(tmp_path / "screen"), str(tmp_path / "learnt"), "--labels-from-folders", "--classifier"]
    more = ["--calibration", str(tmp_path / "held"), "--parts", "screen,confidence", "-o", guard]
    assert main([*fit, table, *more]) == 0, capsys.readouterr().err
    new = ["guard", "predict", guard, str(tmp_path / "held"), "-o", str(tmp_path / "labels.csv")]
    assert main([*new, "--outputs", table]) == 0, capsys.readouterr().err
    with (tmp_path / "labels.csv").open(encoding="utf-8") as file:
        predicted = {row["id"]: row["predicted"] for row in csv.DictReader(file)}
    for one, row in zip(said.ids, shares, strict=True):
        if one.startswith("held"):
            assert predicted[f"{label[one]}/{one}.png"] == NAMES[row.argmax()]
    assert main(new) == 2
    assert "--outputs" in capsys.readouterr().err


def test_probabilities_are_checked_and_zero_has_a_logarithm(tmp_path):
    path = tmp_path / "said.npz"
    np.savez(path, probabilities=[[1.0, 0.0], [0.25, 0.75]])
    assert np.isfinite(read_outputs(path).logits).all()
    np.testing.assert_allclose(read_outputs(path).logits[1], np.log([0.25, 0.75]))
    np.savez(path, probabilities=[[0.5, 0.5], [1.5, -0.5]])
    with pytest.raises(InputError, match="are not negative"):
        read_outputs(path)
    np.savez(path, probabilities=[[1.0, 0.5]])
    with pytest.raises(InputError, match="sum to 1"):
        read_outputs(path)
