import csv
import shutil
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
from processes import run_in_processes
from torch import nn

from recondite.data.spool import Rows
from recondite.detectors import build
from recondite.errors import InputError, ReconditeError
from recondite.options import TrainingOptions
from recondite.training import device, loop
from recondite.training.checkpoint import CHECKPOINT
from recondite.training.logs import EPOCHS, STEPS, VALIDATION
from recondite.training.loop import learning_rate_at, train

OPTIONS = TrainingOptions(epochs=6, batch_size=32, learning_rate=5e-3, seed=3)


@pytest.fixture
def rows(digits):
    pixels = digits[:, None] / np.float32(255)
    return Rows(pixels, np.arange(200)), Rows(pixels, np.arange(200, 260))


def new(name="autoencoder", **options):
    return build(name, image_shape=(1, 8, 8), latent_size=4, width=4, **options)


def weights(detector):
    return {name: value.clone() for name, value in detector.state_dict().items()}


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


class Killed(BaseException):
    pass


def kill_after(monkeypatch, epoch):
    """Let the process 'die' right after the checkpoint of an epoch was written, and before anything else happens."""
    save = loop.Run.save

    def dying(run, done):
        save(run, done)
        if done == epoch:
            raise Killed

    monkeypatch.setattr(loop.Run, "save", dying)


@pytest.mark.parametrize("name", ["autoencoder", "vae"])
@pytest.mark.parametrize(
    ("more", "epoch"),
    [
        *(
            ({}, 0),
            ({}, 1),
            ({}, 4),
            ({"ema": 0.9}, 4),
            ({"trim": 0.1, "clip_norm": 0.5}, 4),
            ({"keep_best": False}, 4),
        ),
        *(
            pytest.param(more, epoch, marks=pytest.mark.slow)
            for more in ({"ema": 0.9}, {"trim": 0.1, "clip_norm": 0.5}, {"keep_best": False})
            for epoch in (0, 1)
        ),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch, rows, name, more, epoch):
    options = replace(OPTIONS, **more)
    whole = new(name)
    history = train(whole, *rows, options, tmp_path / "whole")
    interrupted = new(name)
    with monkeypatch.context() as patch:
        kill_after(patch, epoch)
        with pytest.raises(Killed):
            train(interrupted, *rows, options, tmp_path)
    resumed = new(name, seed=99)  # other first weights: all must come from the checkpoint
    again = train(resumed, *rows, options, tmp_path, resume=True)
    assert_same_bits(weights(whole), weights(resumed))
    assert [row["validation"] for row in again.epochs] == [row["validation"] for row in history.epochs]
    assert again.best_epoch == history.best_epoch
    assert again.losses.keys() == history.losses.keys()
    for losses in history.losses:
        np.testing.assert_array_equal(again.losses[losses], history.losses[losses])
    for log in (STEPS, VALIDATION):
        assert (tmp_path / log).read_text() == (tmp_path / "whole" / log).read_text()


def test_a_run_of_many_channels_resumes_to_the_same_bits(tmp_path, monkeypatch, digits):
    # With more than one channel in, the memory of a kernel is in another order than its axes.
    pixels = np.repeat(digits[:64, None] / np.float32(255), 3, axis=1)
    rows = Rows(pixels, np.arange(64))
    options = replace(OPTIONS, epochs=3, keep_best=False)

    def colour(seed=0):
        return build("autoencoder", image_shape=(3, 8, 8), latent_size=4, width=4, seed=seed)

    whole = colour()
    train(whole, rows, None, options, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, 1)
        with pytest.raises(Killed):
            train(colour(), rows, None, options, tmp_path)
    resumed = colour(seed=99)
    train(resumed, rows, None, options, tmp_path, resume=True)
    assert_same_bits(weights(whole), weights(resumed))


def test_logs_of_a_half_run_epoch_are_dropped_on_resuming(tmp_path, monkeypatch, rows):
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(Killed):
            train(new(), *rows, OPTIONS, tmp_path)
    with (tmp_path / EPOCHS).open("a") as stream:
        stream.write("3,0.1,0.5,0.5\n")
    train(new(), *rows, OPTIONS, tmp_path, resume=True)
    assert [int(row["epoch"]) for row in table(tmp_path / EPOCHS)] == [1, 2, 3, 4, 5, 6]


def test_resuming_with_other_images_or_options_is_refused(tmp_path, rows):
    train(new(), *rows, OPTIONS, tmp_path)
    with pytest.raises(InputError, match="other images or options"):
        train(new(), *rows, replace(OPTIONS, learning_rate=1e-3), tmp_path, resume=True)
    with pytest.raises(InputError, match="other images or options"):
        train(new(), rows[1], rows[0], OPTIONS, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("vae", {"beta": 1.0}, {"beta": 50.0}),
        ("vae", {"sigma": "shared"}, {"sigma": "fixed"}),
        ("autoencoder", {"score": "squared_error"}, {"score": "absolute_error"}),
    ],
)
def test_resuming_another_model_is_refused(tmp_path, rows, name, first, second):
    train(new(name, **first), *rows, OPTIONS, tmp_path)
    with pytest.raises(InputError, match="other images or options"):
        train(new(name, **second), *rows, OPTIONS, tmp_path, resume=True)


def test_a_checkpoint_with_a_state_of_another_size_is_damaged(tmp_path, rows):
    from recondite.data.artifacts import read_tensors, write_tensors

    train(new(), *rows, OPTIONS, tmp_path)
    arrays, facts = read_tensors(tmp_path / CHECKPOINT)
    name = next(key for key in arrays if key.endswith("exp_avg"))
    write_tensors(tmp_path / CHECKPOINT, {**arrays, name: np.zeros(3, np.float32)}, facts)
    with pytest.raises(ReconditeError, match="is damaged"):
        train(new(), *rows, OPTIONS, tmp_path, resume=True)
    write_tensors(tmp_path / CHECKPOINT, arrays, {"identity": facts["identity"]})
    with pytest.raises(ReconditeError, match=r"is damaged.*; leave out --resume"):
        train(new(), *rows, OPTIONS, tmp_path, resume=True)


def test_patience_needs_validation_images_to_run_out(rows):
    assert len(train(new(), rows[0], None, replace(OPTIONS, patience=1)).epochs) == 6


def test_a_finished_run_resumes_to_itself_and_a_new_one_starts_anew(tmp_path, rows):
    first = new()
    train(first, *rows, OPTIONS, tmp_path)
    second = new(seed=5)
    train(second, *rows, OPTIONS, tmp_path, resume=True)
    assert_same_bits(weights(first), weights(second))
    third = new(seed=5)
    train(third, *rows, OPTIONS, tmp_path)
    assert any(not torch.equal(first.state_dict()[name], value) for name, value in third.state_dict().items())


def test_a_damaged_checkpoint_is_named(tmp_path, rows):
    train(new(), *rows, OPTIONS, tmp_path)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:-10])
    with pytest.raises(ReconditeError, match=r"checkpoint.*; leave out --resume to start anew"):
        train(new(), *rows, OPTIONS, tmp_path, resume=True)


def test_the_best_epoch_is_kept(rows):
    # Hours too high a rate at the end: later epochs are worse, and the weights must be those of the best one.
    options = replace(OPTIONS, epochs=8, schedule="constant", learning_rate=0.05)
    detector = new()
    history = train(detector, *rows, options)
    errors = [row["validation"] for row in history.epochs]
    assert history.best_epoch == 1 + int(np.argmin(errors))
    x = torch.from_numpy(rows[1].take(slice(None)))
    with torch.no_grad():
        assert detector.validation_errors(x).mean().item() == pytest.approx(min(errors), rel=1e-5)
    assert history.best_validation == min(errors)


def test_early_stopping_stops(rows):
    options = replace(OPTIONS, epochs=200, patience=2, learning_rate=0.05, schedule="constant")
    history = train(new(), *rows, options)
    assert len(history.epochs) < 200
    errors = [row["validation"] for row in history.epochs]
    assert len(errors) - 1 - int(np.argmin(errors)) == 2


def test_shuffling_is_a_full_permutation(rows):
    seen, draws = [], []
    options = TrainingOptions()

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))
            self.options = options
            self.batches_a_step = 1

        def parameter_groups(self):
            return {"all": [self.weight]}

        def losses(self, x):
            seen.append(x.flatten(1))
            draws.append(torch.rand(()).item())
            yield "all", (x * self.weight).mean()

        def validation_errors(self, x):
            return x.flatten(1).mean(1)

    images = Rows(rows[0].pixels, np.argsort(rows[0].pixels[:200].mean((1, 2, 3))))  # sorted, as by class
    train(Recorder(), images, None, replace(OPTIONS, epochs=2))
    epochs = torch.cat(seen).numpy().reshape(2, 200, 64)
    everything = sorted(map(bytes, images.take(slice(None)).reshape(200, 64)))
    for epoch in epochs:
        assert sorted(map(bytes, epoch)) == everything
    assert not np.array_equal(epochs[0], epochs[1])
    assert len(set(draws)) == 14  # the random numbers of an epoch are its own
    positions = [np.flatnonzero((images.take(slice(None)).reshape(200, 64) == one).all(1))[0] for one in epochs[0]]
    assert abs(np.corrcoef(positions, np.arange(200))[0, 1]) < 0.3


def test_dropout_and_batch_norm_are_in_the_right_mode(rows):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
    decoder = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
    modes = []
    encoder[3].register_forward_hook(lambda module, *_: modes.append(module.training))
    detector = build("autoencoder", image_shape=(1, 8, 8), latent_size=4, encoder=encoder, decoder=decoder)
    modes.clear()
    own = {"validation": rows[1].take(slice(None)), "picture_epochs": "none"}
    detector.fit(rows[0].take(slice(None)), epochs=2, batch_size=32, **own)
    training_steps, validation_batches = 7, 2
    latents_for_sampling = 5  # the network is laid out with one batch of zeros; then four of images
    assert modes == ([True] * training_steps + [False] * validation_batches) * 2 + [False] * latents_for_sampling
    assert not torch.equal(encoder[2].running_mean, torch.zeros(8))
    before = weights(detector)
    detector.score(rows[1].take(slice(None)))
    assert_same_bits(before, weights(detector))


@pytest.mark.parametrize("size", [33, 64, 65, 67, 68, 1, 2])
def test_a_last_batch_of_one_image_does_not_break_batch_norm(size):
    slices = list(loop.batch_slices(size, 32, fewest=4))
    assert np.concatenate([np.arange(size)[part] for part in slices]).tolist() == list(range(size))
    if size > 1:
        assert all(len(np.arange(size)[part]) >= min(4, size) for part in slices)


def test_the_moving_average_is_what_is_kept(rows):
    plain, averaged = new(), new()
    train(plain, *rows, replace(OPTIONS, keep_best=False))
    train(averaged, *rows, replace(OPTIONS, keep_best=False, ema=0.95))
    name = "encoder.0.weight"
    start = new().state_dict()[name]
    moved = (averaged.state_dict()[name] - start).norm() / (plain.state_dict()[name] - start).norm()
    assert 0.05 < moved < 1  # it lags behind the weights that it averages


def test_a_contaminated_training_set_is_survived_by_trimming(digits):
    normal = digits[:300, None] / np.float32(255)
    noise = np.random.default_rng(0).random((30, 1, 8, 8), dtype=np.float32)
    mixed = Rows(np.concatenate([normal, noise]), np.arange(330))
    options = replace(OPTIONS, epochs=30)
    errors = {}
    for trim in (0.0, 0.1, "auto"):
        detector = build("autoencoder", image_shape=(1, 8, 8), latent_size=16, width=16)
        train(detector, mixed, None, replace(options, trim=trim))
        detector.fitted.fill_(True)
        errors[trim] = detector.score(noise).instance_score.mean() / detector.score(normal).instance_score.mean()
    assert min(errors[0.1], errors["auto"]) > 1.2 * errors[0.0]


def test_schedules():
    peak = 1e-2
    rates = {
        kind: [learning_rate_at(replace(OPTIONS, schedule=kind, learning_rate=peak), s, 100) for s in range(100)]
        for kind in ("constant", "one-cycle", "cosine")
    }
    assert set(rates["constant"]) == {peak}
    assert rates["one-cycle"][0] == pytest.approx(peak / 25)
    assert max(rates["one-cycle"]) == pytest.approx(peak, rel=1e-2)
    assert 10 < int(np.argmax(rates["one-cycle"])) < 20
    assert rates["cosine"] == sorted(rates["cosine"], reverse=True)
    assert rates["one-cycle"][-1] < peak / 1000


def test_a_loss_that_explodes_is_an_error_not_a_model(rows):
    detector = new()
    losses = detector.losses
    detector.losses = lambda x: ((group, loss * float("inf")) for group, loss in losses(x))
    with pytest.raises(ReconditeError, match="no longer finite in epoch 1"):
        train(detector, *rows, OPTIONS)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of torch.compile itself
@pytest.mark.slow
def test_compiled_training_learns_the_same_and_leaves_nothing_behind(rows):
    from torch._inductor import config

    plain, compiled = new(), new()
    expected = train(plain, *rows, OPTIONS)
    with config.patch(compile_threads=1):  # without processes that import torch to compile
        found = train(compiled, *rows, replace(OPTIONS, compile=True))
    for ours, theirs in zip(found.epochs, expected.epochs, strict=True):
        assert ours["validation"] == pytest.approx(theirs["validation"], rel=1e-3)
    assert not any("forward" in vars(part) for part in compiled.modules())


def test_without_a_compiler_nothing_is_compiled(rows, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="needs a C"):
        train(new(), *rows, replace(OPTIONS, compile=True))


@pytest.mark.parametrize("augment", ["", "rotate,flip"])
def test_images_kept_on_the_device_give_the_same_bits(rows, monkeypatch, augment):
    read, kept = new(), new()
    train(read, *rows, replace(OPTIONS, augment=augment))
    taken = []
    monkeypatch.setattr(loop, "fits_on", lambda _device, _size: True)
    monkeypatch.setattr(Rows, "take", lambda rows, chosen: taken.append(chosen) or rows.pixels[rows.index[chosen]])
    train(kept, *rows, replace(OPTIONS, augment=augment))
    assert_same_bits(weights(read), weights(kept))
    assert all(isinstance(chosen, slice) for chosen in taken)


def test_images_stay_where_they_are_without_a_gpu():
    assert not device.fits_on(torch.device("cpu"), 1)


@pytest.mark.filterwarnings("ignore:bfloat16 takes")  # on a processor without it
def test_bf16_training_learns(rows):
    history = train(new(), *rows, replace(OPTIONS, precision="bf16", epochs=10))
    assert history.epochs[-1]["validation"] < 0.8 * history.epochs[0]["validation"]


def test_two_processes_agree_with_batch_norm_averages_and_a_short_last_batch(tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, pathlib, sys
            import numpy as np, torch
            from torch import nn
            from recondite.detectors import build
            torch.set_num_threads(1)
            torch.manual_seed(int(os.environ["RANK"]))  # networks that begin with different weights
            images = np.random.default_rng(0).random((66, 1, 8, 8), dtype=np.float32)
            encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
            decoder = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
            detector = build("autoencoder", image_shape=(1, 8, 8), latent_size=4, encoder=encoder, decoder=decoder)
            detector.fit(images, epochs=20, batch_size=32, ema=0.9, patience=2, device="cpu", validation=images[:20])
            said = repr([len(detector.history.epochs), detector.score(images).instance_score.round(6).tolist()])
            (pathlib.Path(sys.argv[1]) / os.environ["RANK"]).write_text(said)
            """
        )
    )
    run_in_processes(2, script, tmp_path)
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text()


@pytest.mark.parametrize("keep_best", [True, False])
def test_losses_of_batches_are_logged_and_kept_of_the_epoch_that_was_kept(tmp_path, rows, keep_best):
    options = replace(OPTIONS, epochs=8, schedule="constant", learning_rate=0.2, keep_best=keep_best)
    detector = new()
    history = train(detector, *rows, options, tmp_path)
    assert history.best_epoch < 8 if keep_best else history.best_epoch == 8
    of_kept = {
        "loss_all": [
            float(row["loss_all"]) for row in table(tmp_path / STEPS) if int(row["epoch"]) == history.best_epoch
        ],
        "validation": [
            float(row["loss"]) for row in table(tmp_path / VALIDATION) if int(row["epoch"]) == history.best_epoch
        ],
    }
    assert {name: len(losses) for name, losses in history.losses.items()} == {"loss_all": 7, "validation": 2}
    for name, losses in of_kept.items():
        assert history.losses[name].tolist() == losses
    detector.fitted.fill_(True)
    errors = detector.score(rows[1].take(slice(None))).instance_score
    errors = errors[np.random.default_rng(OPTIONS.seed).permutation(60)]  # a source may be sorted by class
    np.testing.assert_allclose(of_kept["validation"], [errors[:32].mean(), errors[32:].mean()], rtol=1e-5)
    assert [row["batch"] for row in table(tmp_path / VALIDATION)] == ["1", "2"] * 8


def test_without_validation_images_there_are_no_losses_of_them(tmp_path, rows):
    assert set(train(new(), rows[0], None, OPTIONS, tmp_path).losses) == {"loss_all"}
    assert not (tmp_path / VALIDATION).exists()


def test_every_step_and_epoch_is_logged(tmp_path, rows):
    train(new(), *rows, OPTIONS, tmp_path)
    steps = table(tmp_path / STEPS)
    epochs = table(tmp_path / EPOCHS)
    assert list(steps[0]) == ["epoch", "step", "learning_rate", "loss_all"]
    assert list(epochs[0]) == ["epoch", "seconds", "loss_all", "validation"]
    assert len(steps) == 6 * 7
    assert len(epochs) == 6
    of_first = [float(row["loss_all"]) for row in steps if row["epoch"] == "1"]
    assert float(epochs[0]["loss_all"]) == pytest.approx(np.mean(of_first))
