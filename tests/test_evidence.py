from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import QUICK
from torch import nn

import recondite
from recondite.data.datasets import nameless
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows
from recondite.detectors.measured import Measured
from recondite.errors import InputError
from recondite.networks.hooks import FeatureLayer
from recondite.reports.explanation import in_words, statistics_of_first
from recondite.screen.evidence import Evidence, Observer, fit_evidence, fit_observer, observed, possible_scores
from recondite.screen.made_up import MadeUp, made_up_rows
from recondite.screen.promise import promise
from recondite.screen.words import AUTO, CLASSIFIER, ERROR, EVIDENCE
from recondite.statistics.density import Marginals, smallest_tail
from recondite.statistics.distances import DISTANCES, Distances
from recondite.statistics.image_statistics import change
from recondite.statistics.scores import Scores


@pytest.mark.parametrize("name", list(recondite.DETECTORS))
def test_constants_and_weak_contrast_are_outliers(name, screens, digits):
    constants = np.stack([np.full((8, 8), level, np.uint8) for level in range(0, 256, 5)])
    assert screens(name).score == AUTO
    assert screens(name).predict(constants).is_outlier.all()
    faded = (digits[1400:] // 2 + 60).astype(np.uint8)
    assert screens(name).predict(faded).is_outlier.mean() > 0.95


@pytest.mark.parametrize("score", [AUTO, EVIDENCE, ERROR, "squared_error", "variance"])
def test_every_score_is_a_function_of_the_image_and_calibrated(score, screens, digits, tmp_path):
    screen = screens("autoencoder").with_score(score)
    together = screen.predict(digits[1400:1500])
    alone = [screen.predict(image[None]).instance_score[0] for image in digits[1400:1500]]
    np.testing.assert_array_equal(alone, together.instance_score)
    np.testing.assert_array_equal(together.is_outlier, together.instance_score > screen.threshold)
    screen.save(tmp_path / "screen")
    again = recondite.load(tmp_path / "screen")
    assert again.score == score
    np.testing.assert_array_equal(again.predict(digits[1400:1500]).instance_score, together.instance_score)
    assert again.with_score(AUTO).threshold == screens("autoencoder").threshold
    assert 0.005 < screen.predict(digits[1400:]).is_outlier.mean() < 0.15


def test_scores_of_two_kinds_have_two_fingerprints(screens):
    screen = screens("pca")
    assert len({screen.with_score(score).fingerprint() for score in (AUTO, EVIDENCE, ERROR)}) == 3
    # Evidence that weighs otherwise is another judge; who judges by the error alone does not look at it.
    density = replace(screen.evidence.density, precision=2 * screen.evidence.density.precision)
    other = replace(screen, evidence=replace(screen.evidence, density=density))
    assert other.fingerprint() != screen.fingerprint()
    assert other.with_score(ERROR).fingerprint() == screen.with_score(ERROR).fingerprint()
    for one in (screen, screen.with_score(ERROR)):
        with pytest.raises(InputError, match=r"expected a score among .*; got 'knn'"):
            one.with_score("knn")


def test_the_evidence_of_a_detector_that_rebuilds_knows_its_latents_and_made_up_images(screens, digits):
    rebuilding, looking = screens("pca"), screens("features")
    assert rebuilding.evidence.made_up is not None
    assert looking.evidence.made_up is None
    found = rebuilding.predict(digits[1400:1420]).statistics["latent_norm"]
    norms = np.linalg.norm(rebuilding.detector.encode(digits[1400:1420]), axis=1)
    np.testing.assert_allclose(found, np.log(norms), rtol=1e-5)


def test_evidence_is_how_far_all_statistics_are_and_each_by_itself_how_far_it_is(screens, digits):
    screen, images = screens("pca"), digits[1400:1420]
    statistics = screen.predict(images).statistics
    density = screen.evidence.density
    far = screen.with_score(EVIDENCE).predict(images).instance_score
    np.testing.assert_allclose(far, density.distance(statistics))
    one = screen.with_score("variance").predict(images).instance_score
    np.testing.assert_allclose(one, np.abs(density.z(statistics)[:, density.names.index("variance")]))
    error = screen.with_score(ERROR).predict(images).instance_score
    np.testing.assert_array_equal(error, statistics[ERROR])
    together = screen.evidence.made_up.sum(
        screen.evidence.error.z(error[:, None])[:, 0],
        screen.evidence.distance.z(far[:, None])[:, 0],
        density.z(statistics),
    )
    np.testing.assert_allclose(screen.predict(images).instance_score, together)


def test_nothing_is_made_up_of_vectors_or_under_masks():
    images, vectors = (Rows(np.zeros((3, *shape), np.float32), np.arange(3)) for shape in ((1, 8, 8), (9,)))
    seen = Preprocessing(shape=(1, 8, 8))
    assert len(list(made_up_rows(images, seen))) > 1
    assert list(made_up_rows(images, replace(seen, masked=True))) == []
    assert list(made_up_rows(vectors, Preprocessing(shape=(9,)))) == []


def test_a_screen_without_evidence_has_one_score(digits):
    screen = recondite.fit(digits[:60], detector="pca", latent_size=4, alpha=0.1, score="error")
    with pytest.raises(InputError, match="expected a score among error; got 'auto'"):
        screen.with_score("auto")


def test_possible_scores_are_those_of_the_fitted_screen(screens, monkeypatch):
    detector = screens("pca").detector
    assert set(possible_scores(detector)) == set(screens("pca").scores)
    monkeypatch.setattr("recondite.screen.evidence._LARGEST_LATENT", 12)
    assert set(possible_scores(detector)) == set(screens("pca").scores)  # it has twelve
    monkeypatch.setattr("recondite.screen.evidence._LARGEST_LATENT", 11)
    gone = set(screens("pca").scores) - set(possible_scores(detector))
    assert gone == {f"latent_{name}" for name in DISTANCES}


def test_each_layer_that_is_encoded_again_could_be_judged_by():
    detector = recondite.build("autoencoder", image_shape=(1, 8, 8), latent_size=2, width=4)
    layers = len(detector.encoder_layers())
    without, found = possible_scores(detector), possible_scores(detector, reencoding=True)
    expected = {"reencoding", *(f"reencoding_layer_{number}" for number in range(1, layers + 1))}
    assert layers > 0
    assert {*found} - {*without} == expected
    assert not fit_observer(Plain(), rows_of(50)).reencoding


def test_tables_of_another_shape_are_no_evidence(screens):
    evidence = screens("pca").evidence
    facts, tensors = evidence.to_json(), evidence.tensors()
    assert Evidence.from_saved(facts, tensors, None).made_up.weights == evidence.made_up.weights
    for name in ("error.knots", "distance.knots"):
        for value in (tensors[name][0], np.concatenate([tensors[name]] * 2)):
            with pytest.raises(ValueError, match=f"{name} of shape"):
                Evidence.from_saved(facts, tensors | {name: value}, None)
    for name in ("density.knots", "density.precision"):
        for value in (tensors[name][0], tensors[name][1:], tensors[name][:, 1:]):
            if (name, value.ndim) != ("density.knots", 2) or len(value) < len(tensors[name]):
                with pytest.raises(ValueError, match=f"{name} of shape"):
                    Evidence.from_saved(facts, tensors | {name: value}, None)


def test_reencoding_adds_a_statistic_a_layer(digits):
    screen = recondite.fit(
        digits[:600], detector="autoencoder", reencoding=True, **QUICK["autoencoder"] | {"epochs": 2}
    )
    assert "reencoding" in screen.scores
    layers = len(screen.detector.encoder_layers())
    assert set(possible_scores(screen.detector, reencoding=True)) == set(screen.scores)
    assert not any(name.startswith("reencoding") for name in possible_scores(screen.detector))
    assert f"reencoding_layer_{layers}" in screen.scores
    assert np.isfinite(screen.predict(digits[600:640]).instance_score).all()


def test_too_few_images_are_judged_by_the_error_unless_evidence_was_asked_for(digits):
    few = recondite.fit(digits[:300], detector="pca", latent_size=4, alpha=0.1)
    assert few.score == ERROR
    assert few.facts["images"]["images"] == 240 - few.facts["validation"]["images"]
    with pytest.raises(InputError, match="at least 50 images held out as evidence"):
        recondite.fit(digits[:300], detector="pca", latent_size=4, alpha=0.1, score="auto")
    given = recondite.fit(digits[:300], detector="pca", latent_size=4, alpha=0.1, evidence=digits[300:400])
    assert given.score == AUTO
    with pytest.raises(InputError, match="expected a score among auto, evidence, error"):
        recondite.fit(digits[:600], detector="pca", latent_size=4, score="nonsense")


def test_a_duplicate_planted_in_two_parts_serves_one(digits):
    screen = recondite.fit(
        digits[:600],
        detector="pca",
        latent_size=4,
        validation=None,
        calibration=digits[500:800],
        evidence=digits[400:560],
    )
    assert screen.facts["calibration"]["images"] == 300
    assert screen.facts["evidence"]["images"] == 100  # sixty of them calibrate
    assert screen.facts["images"]["images"] == 400


def test_the_words_name_the_planted_cause(screens, digits):
    screen = screens("vae")
    faded = screen.predict((digits[1400:1401] // 8 + 100).astype(np.uint8))
    assert "contrast (low)" in in_words(screen, faded)
    names = dict(statistics_of_first(screen, faded))
    assert names["contrast"] < -2.58
    noise = np.random.default_rng(0).integers(0, 256, (1, 8, 8), dtype=np.uint8)
    assert "error of the reconstruction (high)" in in_words(screen, screen.predict(noise))


class TinyClassifier(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.features(x))


def test_a_classifiers_features_are_a_part_of_auto_and_it_must_be_the_same_one(digits, tmp_path):
    options = {"detector": "pca", "latent_size": 8, "alpha": 0.05}
    screen = recondite.fit(digits[:1000], classifier=TinyClassifier(), classifier_layer="features", **options)
    assert "classifier" in screen.scores
    caution = "the classifier has not learnt from the calibration images"
    assert caution in promise(screen)
    assert caution in promise(screen, 0.1)
    assert caution not in promise(screen.with_score("error"))
    assert "must not have learnt from the calibration images" in " ".join(recondite.fit.__doc__.split())
    noise = np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8)
    assert screen.with_score("classifier").predict(noise).is_outlier.mean() > 0.3
    screen.save(tmp_path / "screen")
    again = recondite.load(tmp_path / "screen", classifier=TinyClassifier())
    np.testing.assert_array_equal(again.predict(digits[1000:1100]).p_value, screen.predict(digits[1000:1100]).p_value)
    with pytest.raises(InputError, match="classifier="):
        recondite.load(tmp_path / "screen")
    with pytest.raises(InputError, match="not the classifier"):
        recondite.load(tmp_path / "screen", classifier=TinyClassifier(seed=1))
    with pytest.raises(InputError, match="does not take"):
        recondite.fit(digits[:600], classifier=TinyClassifier(), classifier_layer="nothing", **options)


def drawn(count, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(count, columns))


class Plain:
    """As much of a detector as evidence looks at: images are vectors, and latents their first three numbers."""

    shape, scoring_batch, rebuilds, preprocessing = (9,), 20, False, Preprocessing(shape=(9,))

    def __init__(self, locates=True, has_encoder=True):
        self.locates, self.has_encoder = locates, has_encoder

    def scaled(self, pixels):
        return 2 * pixels

    def encode_tensor(self, x):
        return x[:, :3]

    def encoder_layers(self):
        return []

    def run(self, pixels, function):
        return {name: value.numpy() for name, value in function(self, torch.from_numpy(pixels)).items()}

    def score_batch(self, batch, _=None, feature_score=False, reconstruction=False, observer=None):
        pixels = batch.pixels.astype(np.float64)
        statistics = None if observer is None else {"mean": pixels.mean(1), "spread": pixels.std(1)}
        if observer is not None and observer.features is not None:
            found = observer.features(observer.classifier(torch.from_numpy(batch.pixels)))
            statistics |= {f"classifier_{name}": value.double().numpy() for name, value in found.items()}
        return Scores(
            ids=tuple(batch.ids),
            instance_score=pixels[:, 0],
            errors=(None,) * len(pixels),
            feature_score=batch.pixels if feature_score else None,
            reconstruction=batch.pixels if reconstruction else None,
            statistics=statistics,
        )


def rows_of(count, seed=0):
    return Rows(drawn(count, 9, seed).astype(np.float32), np.arange(count))


def last_four(pixels):
    return pixels[:, 5:]


def test_auto_is_the_rarest_of_error_and_evidence_and_a_classifier_has_its_share():
    rows = rows_of(60)
    observer = fit_observer(Plain(), rows, classifier=FeatureLayer(last_four))
    plain = fit_evidence(Plain(), replace(observer, classifier=None, features=None), rows)
    told = fit_evidence(Plain(), observer, rows, classifier_share=0.2)
    assert (plain.classifier_share, plain.made_up, plain.probe) == (0.5, None, None)
    assert plain.scores == (AUTO, EVIDENCE, ERROR, "mean", "spread")
    assert told.scores == (AUTO, EVIDENCE, ERROR, CLASSIFIER, "mean", "spread")
    assert plain.caution == ""
    assert "classifier has not learnt" in told.caution
    error, statistics, peaks = observed(Plain(), observer, rows_of(7, seed=1))
    np.testing.assert_array_equal(peaks, rows_of(7, seed=1).pixels.max(1))
    np.testing.assert_array_equal(plain.error.knots, Marginals.fit(rows.pixels[:, :1]).knots)
    far = plain.density.distance(statistics)
    np.testing.assert_array_equal(plain.score(EVIDENCE, error, statistics), far)
    own = [plain.error.z(error[:, None]), plain.distance.z(far[:, None])]
    seen = told.features.z(np.stack([statistics[f"classifier_{name}"] for name in DISTANCES], axis=1))
    for evidence, name, z, shares in (
        (plain, AUTO, own, [0.5, 0.5]),
        (told, AUTO, [*own, seen], [0.4, 0.4, 0.1, 0.1]),
        (told, CLASSIFIER, [seen], [0.5, 0.5]),
    ):
        expected = smallest_tail(np.concatenate(z, axis=1), shares)
        np.testing.assert_allclose(evidence.score(name, error, statistics), expected)
    with pytest.raises(InputError, match="expected a score among"):
        plain.score(CLASSIFIER, error, statistics)
    _, found, _ = observed(Plain(), plain.observer, rows)
    kinds = [{name: values + 3 for name, values in found.items()}]
    made_up = MadeUp.fit(plain.density, kinds, found, drawn(60, 1)[:, 0], drawn(60, 1, 1)[:, 0])
    together = made_up.sum(own[0][:, 0], own[1][:, 0], plain.density.z(statistics))
    np.testing.assert_array_equal(replace(plain, made_up=made_up).score(AUTO, error, statistics), together)
    z = np.concatenate([made_up.total.z(together[:, None]), seen], axis=1)
    shared = replace(told, made_up=made_up).score(AUTO, error, statistics)
    np.testing.assert_allclose(shared, smallest_tail(z, [0.8, 0.1, 0.1]))


def test_evidence_is_saved_with_its_classifier_which_must_be_given_again():
    rows = rows_of(60)
    observer = fit_observer(Plain(), rows, classifier=FeatureLayer(last_four))
    told = fit_evidence(Plain(), observer, rows)
    facts, tensors = told.to_json(), told.tensors()
    again = Evidence.from_saved(facts, tensors, last_four)
    assert again.tensors().keys() == tensors.keys()
    again.check_classifier((9,))
    with pytest.raises(InputError, match="not the classifier"):
        Evidence.from_saved(facts, tensors, lambda pixels: pixels[:, :4]).check_classifier((9,))
    without = Evidence.from_saved(facts, tensors, None)
    assert (without.features, without.observer.classifier, without.probe) == (None, None, None)
    without.check_classifier((9,))
    replace(again, probe=None).check_classifier((9,))
    replace(again, observer=replace(again.observer, classifier=None)).check_classifier((9,))
    plain = fit_evidence(Plain(), replace(observer, classifier=None, features=None), rows)
    assert Evidence.from_saved(plain.to_json(), plain.tensors(), last_four).features is None
    for shape in ((3, 20), (1, 20), (20,)):
        with pytest.raises(ValueError, match=r"features\.knots of shape"):
            Evidence.from_saved(facts, tensors | {"features.knots": np.zeros(shape)}, last_four)


def test_evidence_needs_fifty_images_and_a_share_within_0_and_1():
    assert fit_evidence(Plain(), Observer(), rows_of(50), 0.999).classifier_share == 0.999
    with pytest.raises(InputError, match="at least 50 images as evidence; got 49"):
        fit_evidence(Plain(), Observer(), rows_of(49))
    for share in (0, 1):
        with pytest.raises(InputError, match=r"classifier_share in \(0, 1\)"):
            fit_evidence(Plain(), Observer(), rows_of(50), share)
    # Made-up images belong to what rebuilds; nothing is made up of vectors.
    rebuilding = Plain()
    rebuilding.rebuilds = True
    assert fit_evidence(rebuilding, Observer(), rows_of(50)).made_up is None
    assert observed(Plain(locates=False), None, rows_of(50))[1:] == ({}, None)
    found = Observer().score_batch(Plain(), nameless(rows_of(5).pixels))
    assert (found.feature_score, found.reconstruction) == (None, None)


def test_distances_of_latents_need_fifty_images_and_few_numbers(monkeypatch):
    assert fit_observer(Plain(), rows_of(49)).latents is None
    assert fit_observer(Plain(has_encoder=False), rows_of(50)).latents is None
    rows = rows_of(100)
    latents = 2 * rows.pixels[:, :3]
    for most, learnt in ((100, latents), (60, latents[np.linspace(0, 99, 60).astype(int)])):
        monkeypatch.setattr("recondite.screen.evidence._VECTORS_LEARNT", most)
        found = fit_observer(Plain(), rows)
        assert found.features is None
        for name, values in Distances.fit(learnt).tensors().items():
            np.testing.assert_array_equal(found.latents.tensors()[name], values)
    assert fit_observer(Plain(), rows_of(50)).latents is not None
    for most, known in ((3, True), (2, False)):
        monkeypatch.setattr("recondite.screen.evidence._LARGEST_LATENT", most)
        assert (fit_observer(Plain(), rows).latents is not None) is known


@pytest.mark.parametrize("rebuilt", [True, False])
@pytest.mark.parametrize("encoded", [True, False])
@pytest.mark.parametrize("reencoding", [True, False])
@pytest.mark.parametrize("told", [(True, True), (True, False), (False, True)])
def test_statistics_are_of_what_there_is(rebuilt, encoded, reencoding, told):
    pixels = torch.from_numpy(np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32))
    distances = Distances.fit(drawn(50, 4).astype(np.float32))
    observer = Observer(
        reencoding=reencoding,
        latents=Distances.fit(drawn(50, 3).astype(np.float32)),
        classifier=FeatureLayer(lambda x: x.flatten(1)[:, :4]) if told[0] else None,
        features=distances if told[1] else None,
    )
    assert not Observer().reencoding
    detector = SimpleNamespace(scaled=lambda x: x, encoder_layers=list, encode_tensor=lambda x: x.flatten(1)[:, :3] + 1)
    latents = torch.tensor([[0.0, 0, 0], [3, 4, 0]])
    measured = Measured(
        feature_scores=pixels, reconstruction=pixels / 2 if rebuilt else None, latents=latents if encoded else None
    )
    found = observer.found(detector, pixels, measured, [])
    assert ("squared_error" in found) is rebuilt
    assert ("latent_norm" in found) is encoded
    if encoded:
        np.testing.assert_allclose(found["latent_norm"], np.log([1e-6, 5]), rtol=1e-5)
    for name in DISTANCES:
        assert (f"latent_{name}" in found) is encoded
        assert (f"classifier_{name}" in found) is all(told)
    assert ("reencoding" in found) is (reencoding and encoded and rebuilt)


def test_layers_that_were_seen_both_times_are_compared():
    layer, idle, late = nn.Linear(64, 3), nn.Identity(), nn.Linear(3, 2)
    detector = SimpleNamespace(
        scaled=lambda x: x,
        encoder_layers=lambda: [idle, layer, late],
        encode_tensor=lambda x: late(layer(x.flatten(1))),
    )
    pixels, latents, seen = torch.rand(2, 1, 8, 8), torch.rand(2, 2), torch.rand(2, 3)
    measured = Measured(feature_scores=pixels, reconstruction=pixels / 2, latents=latents)
    with torch.no_grad():
        found = Observer(reencoding=True).found(detector, pixels, measured, [seen, seen, None])
        rebuilt = layer(pixels.flatten(1) / 2)
    assert [name for name in found if name.startswith("reencoding")] == ["reencoding", "reencoding_layer_1"]
    torch.testing.assert_close(found["reencoding"], change(latents, late(rebuilt)))
    torch.testing.assert_close(found["reencoding_layer_1"], change(seen, rebuilt))
