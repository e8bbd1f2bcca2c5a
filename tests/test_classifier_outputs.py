"""What is asked of a classifier, and how tables of what it said are read."""

import json
import os

import numpy as np
import pytest
import torch
from torch import nn

from recondite.data.artifacts import write_tensors
from recondite.data.datasets import Batch, nameless
from recondite.errors import InputError
from recondite.screen.classifier_outputs import FEATURES, Outputs, Told, answers, answers_of, ask, read_outputs
from recondite.statistics.distances import Distances


class Layers(nn.Module):
    """Logits are the first two pixels; layers give one, two, three and four axes, and one is not asked."""

    def __init__(self):
        super().__init__()
        self.maps, self.rows, self.flat, self.one = nn.Identity(), nn.Flatten(2), nn.Flatten(), nn.Flatten(0)
        self.idle = nn.Identity()

    def forward(self, x):
        self.maps(x), self.rows(x), self.one(x)
        return self.flat(x)[:, :2]


def test_features_are_means_over_places_or_what_the_layer_gives():
    x = torch.arange(2 * 3 * 2 * 4, dtype=torch.float32).reshape(2, 3, 2, 4)
    means = x.mean((2, 3))
    for layer, expected in (("maps", means), ("rows", means), ("flat", x.flatten(1))):
        logits, features = ask(Layers(), layer, x)
        assert torch.equal(logits, x.flatten(1)[:, :2])
        assert torch.equal(features, expected), layer
    for layer in ("one", "idle"):
        with pytest.raises(InputError, match=f"layer '{layer}' gave no features"):
            ask(Layers(), layer, x)


def outputs(logits, features=None):
    ids = tuple(f"{place}" for place in range(len(logits)))
    return Outputs(ids=ids, logits=np.array(logits, float), labels=np.zeros(len(logits), int), features=features)


def test_outputs_are_finite_and_tell_their_doubt():
    found = outputs([[0, np.log(3)], [5, 5]])
    np.testing.assert_allclose(found.doubt, [np.log(4 / 3), np.log(2)])
    with pytest.raises(InputError, match="expected finite"):
        outputs([[0, np.nan], [0, 1]])
    with pytest.raises(InputError, match="expected finite"):
        outputs([[0, 1], [0, 1]], np.array([[0, np.nan], [0, 1]]))


@pytest.mark.parametrize("suffix", ["npz", "jsonl", "csv"])
def test_a_table_of_one_image_needs_no_more_than_its_logits(suffix, tmp_path):
    path = tmp_path / f"outputs.{suffix}"
    if suffix == "npz":
        np.savez(path, logits=[[1.5, -2]], ids=["a"])
    elif suffix == "jsonl":
        path.write_text(json.dumps({"id": "a", "logit.0": 1.5, "logit.1": -2}))
    else:
        path.write_text("id,label,logit.0,logit.1\na,,1.5,-2\n")
    found = read_outputs(path)
    assert (found.ids, found.logits.tolist(), found.features) == (("a",), [[1.5, -2]], None)
    assert found.labels.tolist() == [-1]


@pytest.mark.parametrize(("suffix", "line"), [("csv", 3), ("jsonl", 2)])
def test_a_cell_that_holds_no_number_is_told_by_its_line(suffix, line, tmp_path):
    path = tmp_path / f"outputs.{suffix}"
    rows = [{"id": name, "logit.0": value, "logit.1": "0"} for name, value in (("a", "1"), ("b", "x"))]
    table = ["id,logit.0,logit.1", *(",".join(row.values()) for row in rows)]
    path.write_text("\n".join(table if suffix == "csv" else map(json.dumps, rows)))
    with pytest.raises(InputError, match=f"outputs.{suffix}, line {line}: expected a number; got 'x'"):
        read_outputs(path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_table_without_columns_of_logits_is_told_which_it_needs(suffix, tmp_path):
    path = tmp_path / f"outputs.{suffix}"
    row = {"id": "a", "label": "0", "logit_0": "1", "logit_1": "2"}
    path.write_text(json.dumps(row) if suffix == "jsonl" else "\n".join(map(",".join, (row.keys(), row.values()))))
    with pytest.raises(
        InputError, match=r"expected columns logit.0, logit.1, ... or probability.0, .* it has: id, lab"
    ):
        read_outputs(path)


def test_rows_name_their_columns(tmp_path):
    path = tmp_path / "outputs.jsonl"
    rows = [{"id": "a", "logit.0": 1, "logit.1": 2}, {"logit.1": 4, "logit.0": 3, "id": "b"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_outputs(path).logits.tolist() == [[1, 2], [3, 4]]
    path.write_text("\n".join(map(json.dumps, [rows[0], {"id": "b", "logit.1": 4}])))
    with pytest.raises(InputError, match=r"line 2: expected logit.0, logit.1, as in the first line; got logit.1"):
        read_outputs(path)


def distances():
    return Distances.fit(np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))


def test_a_network_sees_full_batches_and_a_table_the_images_that_could_be_read():
    seen = []

    def network(pixels):
        seen.append(len(pixels))
        return pixels.flatten(1)[:, :2]

    pixels = np.random.default_rng(0).random((2, 1, 2, 2), dtype=np.float32)
    batch = Batch(["a", "bad", "b"], [""] * 3, pixels, [None, "unreadable", None])
    found = answers(network, None, batch, 5, None, distances())
    assert seen == [5]
    assert found.parts.keys() == {"confidence"}  # without features nothing is far from them
    expected = torch.from_numpy(pixels).flatten(1)[:, :2].softmax(1).amax(1).numpy()
    np.testing.assert_allclose(found.confidence[[0, 2]], expected, rtol=1e-6)
    logits, features = np.array([[1.0, 2.0], [3.0, 0.0]]), np.arange(8.0).reshape(2, 4)
    told = Told(Outputs(ids=("b", "a"), logits=logits, labels=np.array([0, 0]), features=features))
    found = answers(told, None, batch, 5, None, distances())
    assert found.predicted == ("0", None, "1")
    far = distances()(torch.from_numpy(features).float())["neighbour"].double().numpy()
    np.testing.assert_array_equal(found.parts[FEATURES], [far[1], np.nan, far[0]])
    assert answers(told, None, batch, 5, None, None).parts.keys() == {"confidence"}
    assert answers(network, None, nameless(pixels[:0]), 5, None, None).predicted == ()
    assert seen == [5, 5]


def test_a_class_that_is_ruled_out_is_an_answer_and_nan_is_none():
    logits = torch.tensor([[-np.inf, 0, np.log(3)], [np.nan, 1, 2], [0, 0, 0]], dtype=torch.float64)
    found = answers_of(logits, {}, np.arange(3), [None] * 3, None)
    assert found.predicted == ("2", None, "0")
    assert found.valid.tolist() == [True, False, True]
    np.testing.assert_allclose(found.confidence, [0.75, np.nan, 1 / 3])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logits": np.zeros(2)}, r"expected logits \(2, classes\) of two classes or more"),
        ({"logits": np.zeros((3, 2))}, "expected logits"),
        ({"logits": np.zeros((2, 1)), "labels": np.array([0, 0])}, "expected logits"),
        ({"labels": np.array([0])}, r"expected a label for each of 2 images; got \(1,\)"),
        ({"labels": np.array([0, 3])}, "expected labels below 3, numbers of the logits; got 3"),
        ({"features": np.zeros(2)}, r"expected features \(2, F\)"),
        ({"features": np.zeros((3, 4))}, r"expected features \(2, F\)"),
        ({"ids": ("a", "a")}, "different ids"),
    ],
)
def test_parts_of_outputs_belong_together(change, words):
    given = {"ids": ("a", "b"), "logits": np.zeros((2, 3)), "labels": np.array([2, -1]), "features": np.zeros((2, 1))}
    Outputs(**given)
    with pytest.raises(InputError, match=words):
        Outputs(**given | change)


def test_a_label_is_wrong_where_another_class_is_true_or_none():
    given = Outputs(ids=tuple("abc"), logits=np.array([[1.0, 2], [2, 1], [1, 2]]), labels=np.array([1, 1, -1]))
    assert given.wrong.tolist() == [False, True, True]


def test_outputs_come_as_safetensors_with_their_ids_in_the_header(tmp_path):
    path = tmp_path / "outputs.safetensors"
    logits, features = np.array([[1.0, 2.0], [0.0, -1.0]], np.float32), np.ones((2, 3), np.float32)
    write_tensors(path, {"logits": logits, "features": features, "labels": np.array([1, 0])}, {"ids": ["x", "y"]})
    found = read_outputs(path)
    assert found.ids == ("x", "y")
    assert (found.labels.tolist(), found.logits.tolist()) == ([1, 0], logits.tolist())
    np.testing.assert_array_equal(found.features, features)
    (tmp_path / "outputs.txt").write_text("x")
    with pytest.raises(InputError, match=r"as \.npz, \.safetensors"):
        read_outputs(tmp_path / "outputs.txt")


class Running:
    """What runs when it is unpickled: it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_nothing_in_an_array_file_is_run(tmp_path):
    np.savez(tmp_path / "outputs.npz", logits=np.array([Running(tmp_path / "made")], dtype=object))
    with pytest.raises(InputError, match="is not a readable array file"):
        read_outputs(tmp_path / "outputs.npz")
    assert not (tmp_path / "made").exists()


def test_columns_are_of_the_classes_that_their_numbers_say_in_any_order(tmp_path):
    path = tmp_path / "outputs.csv"
    names = sorted(f"logit.{number}" for number in range(11))
    assert names[2] == "logit.10"
    path.write_text("\n".join([",".join(["id", *names]), ",".join(["a", *(name[6:] for name in names)])]))
    assert read_outputs(path).logits.tolist() == [[float(number) for number in range(11)]]


@pytest.mark.parametrize("names", [["logit.0", "logit.2"], ["logit.1", "logit.2"], ["probability.0", "probability.x"]])
def test_columns_with_gaps_are_refused(names, tmp_path):
    path = tmp_path / "outputs.csv"
    path.write_text(f"id,{','.join(names)}\na,.5,.5\n")
    kind = names[0].partition(".")[0]
    with pytest.raises(InputError, match=f"expected columns {kind}.0 to {kind}.1, without gaps; got '{names[-1]}'"):
        read_outputs(path)


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_probabilities_are_not_taken_for_logits(suffix, tmp_path):
    path = tmp_path / f"outputs.{suffix}"
    if suffix == "npz":
        np.savez(path, logits=[[0.9, 0.1], [0.5, 0.5]])
    else:
        path.write_text("id,logit.0,logit.1\na,.9,.1\nb,.5,.5\n")
    with pytest.raises(InputError, match=r"expected logits; got probabilities, .* \(columns probability.0, "):
        read_outputs(path)


def test_what_is_wrong_with_outputs_is_told_by_the_name_of_an_image():
    with pytest.raises(InputError, match="different ids; 'b' comes 2 times"):
        Outputs(ids=("a", "b", "b"), logits=np.zeros((3, 2)), labels=np.zeros(3, int))
    with pytest.raises(InputError, match="finite logits; those of 2 of 3 images are not, the first: '1'"):
        outputs([[0, 1], [0, np.nan], [np.inf, 1]])
    with pytest.raises(InputError, match=r"lack 1 of 2 images; the first: 'x/0' \(they have '0' and others"):
        outputs([[0, 1], [1, 0]]).select(["0", "x/0"])
