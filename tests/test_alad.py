"""ALAD against numbers worked out by hand, numpy and a slow twin of its training step."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import Killed as KilledRun
from test_training import assert_same_bits, kill_after, table, weights
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recondite import InputError, build
from recondite.data.spool import Rows
from recondite.detectors.alad import Alad
from recondite.distributed import Share, normal, sharing
from recondite.networks.layers import BatchNorm, Dropout
from recondite.options import TrainingOptions
from recondite.training.logs import EPOCHS, STEPS
from recondite.training.loop import Run, train

NETWORKS = ("encoder", "generator", "critic_xz", "critic_xx", "critic_zz")
OPTIONS = TrainingOptions(
    **{**Alad.training_defaults, "epochs": 3, "batch_size": 16, "learning_rate": 1e-3, "ema": 0.9}
)


def small(seed=0, shape=(1, 16, 16), **options):
    return build("alad", image_shape=shape, seed=seed, **{"latent_size": 5, "width": 8, **options})


@pytest.fixture(scope="module")
def images():
    """64 smooth random images (64, 1, 16, 16) in [0, 1]."""
    coarse = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=16, mode="bilinear").numpy()


def layers(module):
    """Return (kind, in, out, kernel, stride, padding) of layers with weights, and the names of the rest, in order."""
    listed = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            kind = "conv" if isinstance(layer, nn.Conv2d) else "up"
            sizes = (layer.kernel_size[0], layer.stride[0], layer.padding[0])
            listed.append((kind, layer.in_channels, layer.out_channels, *sizes))
        elif isinstance(layer, nn.Linear):
            listed.append(("dense", layer.in_features, layer.out_features))
        elif isinstance(layer, BatchNorm):
            listed.append(("BN", layer.num_features))
        elif isinstance(layer, nn.LeakyReLU | nn.ReLU | nn.Tanh):
            listed.append("lrelu" if isinstance(layer, nn.LeakyReLU) else type(layer).__name__.lower())
        elif isinstance(layer, Dropout):
            listed.append(f"dropout {layer.rate}")
    return listed


def parameters(listed):
    """Count weights and biases from a layer table."""
    count = 0
    for row in listed:
        if row[0] in ("conv", "up"):
            count += row[1] * row[2] * row[3] ** 2 + row[2]
        elif row[0] == "dense":
            count += row[1] * row[2] + row[2]
        elif row[0] == "BN":
            count += row[1]  # a scale and a shift, but the layer before has no bias
    return count


def block(kind, before, after, activation="lrelu"):
    return [(kind, before, after, 4, 2, 1), ("BN", after), activation]


def hidden(before, after):
    return [("dense", before, after), "lrelu", "dropout 0.2"]


TABLE = {
    "encoder": [
        *block("conv", 3, 128),
        *block("conv", 128, 256),
        *block("conv", 256, 512),
        ("conv", 512, 100, 4, 1, 0),
    ],
    "generator": [
        *(("up", 100, 512, 4, 1, 0), ("BN", 512), "relu"),
        *(*block("up", 512, 256, "relu"), *block("up", 256, 128, "relu"), ("up", 128, 3, 4, 2, 1), "tanh"),
    ],
    "critic_xz": [
        *(("conv", 3, 128, 4, 2, 1), "lrelu", *block("conv", 128, 256), *block("conv", 256, 512)),
        *(*hidden(100, 512), *hidden(512, 512), *hidden(8192 + 512, 1024), ("dense", 1024, 1)),
    ],
    "critic_xx": [
        *(("conv", 3, 64, 5, 2, 0), ("conv", 64, 128, 5, 2, 0), "lrelu", "dropout 0.2", ("dense", 16_384, 1)),
    ],
    "critic_zz": [*hidden(200, 64), *hidden(64, 32), ("dense", 32, 1)],
}
# Worked out by hand: kernel * in * out + out for each layer, C for each batch norm and the bias that it makes idle.
COUNTS = {
    "encoder": 3_448_676,
    "generator": 3_448_579,
    "critic_xz": 11_858_561,
    "critic_xx": 226_177,
    "critic_zz": 14_977,
}


def test_the_networks_at_32_pixels_are_those_of_the_table():
    detector = build("alad", image_shape=(3, 32, 32))
    for name in NETWORKS:
        network = getattr(detector, name)
        assert layers(network) == TABLE[name], name
        assert sum(p.numel() for p in network.parameters()) == parameters(TABLE[name]) == COUNTS[name], name
    assert sum(p.numel() for p in detector.parameters()) == sum(COUNTS.values()) == 18_996_970


def test_weights_begin_as_the_original_and_only_inner_layers_of_encoder_and_critics_are_normalised():
    detector = build("alad", image_shape=(3, 32, 32), width=32, latent_size=20)
    for name in NETWORKS:
        kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        weighted = [layer for layer in getattr(detector, name).modules() if isinstance(layer, kinds)]
        normalised = [nn.utils.parametrize.is_parametrized(layer) for layer in weighted]
        assert normalised == [name != "generator"] * (len(weighted) - 1) + [False], name
        for layer, spectral in zip(weighted, normalised, strict=True):
            raw = layer.parametrizations.weight.original if spectral else layer.weight
            if raw.numel() > 500:
                assert raw.std().item() == pytest.approx(0.01, rel=0.15)
            assert layer.bias is None or not layer.bias.any()
            if spectral:
                norm = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
                assert norm.item() == pytest.approx(1, abs=0.1)
    for norm in (module for module in detector.modules() if isinstance(module, BatchNorm)):
        assert (norm.momentum, norm.eps) == (0.01, 1e-3)  # momentum .99 as the original's framework counts it


@pytest.mark.parametrize(("side", "extra"), [(16, []), (64, [64]), (128, [32, 64])])
def test_other_sizes_have_a_block_less_or_more_at_the_side_of_the_image(side, extra):
    detector = build("alad", image_shape=(2, side, side))
    widths = [*extra, 128, 256, 512] if side > 16 else [256, 512]
    encoder, generator = layers(detector.encoder), layers(detector.generator)
    assert [row[1] for row in encoder if row[0] == "BN"] == widths
    assert [row[1] for row in generator if row[0] == "BN"] == widths[::-1]
    # The block of 128 has no batch norm in the critic of (x, z), those added have.
    assert [row[1] for row in layers(detector.critic_xz) if row[0] == "BN"] == [size for size in widths if size != 128]
    x = torch.rand(2, 2, side, side)
    z = detector.encoder(x)
    assert z.shape == (2, 100)
    assert detector.generator(z).shape == x.shape
    assert detector.critic_xz(x, z).shape == (2,)
    assert detector.critic_xx.features(x, x).shape == (2, 128 * (side // 2) * (side // 4))
    assert detector.critic_xx(x, x).shape == detector.critic_zz(z, z).shape == (2,)


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 8, 8), (1, 32, 64), (3, 256, 256)])
def test_other_sizes_are_refused_with_a_way_out(shape):
    with pytest.raises(InputError, match=rf"16, 32, 64, 128 pixels.*got {shape[1]} x {shape[2]}.*image_size=32"):
        build("alad", image_shape=shape)


def test_vectors_get_the_dense_networks():
    detector = build("alad", image_shape=(121,), latent_size=32)
    expected = {
        "encoder": 121 * 64 + 64 + 64 * 32 + 32,
        "generator": 32 * 64 + 64 + 64 * 128 + 128 + 128 * 121 + 121,
        "critic_xz": 121 * 128 + 256 + 32 * 128 + 128 + 256 * 128 + 128 + 129,
        "critic_xx": 242 * 128 + 128 + 129,
        "critic_zz": 64 * 32 + 32 + 33,
    }
    assert {name: sum(p.numel() for p in getattr(detector, name).parameters()) for name in NETWORKS} == expected
    assert not any(nn.utils.parametrize.is_parametrized(layer) for layer in detector.modules())


def test_images_are_laid_on_top_of_one_another_and_padded_as_the_original_does():
    critic = small(width=8).eval().critic_xx
    x, other = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    stacked = np.concatenate([x, other], axis=2)  # along the height
    padded = np.pad(stacked, ((0, 0), (0, 0), (1, 2), (1, 2)))
    kernel = critic.first.weight.detach().numpy()
    expected = np.zeros((2, 4, 16, 8))
    for row in range(16):
        for column in range(8):
            window = padded[:, :, 2 * row : 2 * row + 5, 2 * column : 2 * column + 5]
            expected[:, :, row, column] = np.einsum("ncij,kcij->nk", window, kernel)
    seen = {}
    critic.first.register_forward_hook(lambda _, __, result: seen.update(first=result))
    critic.features(x, other)
    np.testing.assert_allclose(seen["first"].detach().numpy(), expected, rtol=1e-4, atol=1e-6)


def recorded(detector):
    """Let the critics write down their logits, in the order of the calls."""
    calls = {name: [] for name in ("critic_xz", "critic_xx", "critic_zz")}
    for name, listed in calls.items():
        getattr(detector, name).register_forward_hook(lambda _, __, logits, listed=listed: listed.append(logits))
    return calls


def cross_entropy(logits, label):
    """The mean of -label log p - (1 - label) log(1 - p), in numpy."""
    p = 1 / (1 + np.exp(-logits.detach().double().numpy()))
    return np.mean(-label * np.log(p) - (1 - label) * np.log(1 - p))


def test_each_loss_is_the_sum_of_its_terms(images):
    detector = small().train()
    calls = recorded(detector)
    *critics, joint = list(detector.losses(torch.from_numpy(images[:32])))
    terms = {
        name: [cross_entropy(logits, label) for logits, label in zip(calls[name][:2], (1, 0), strict=True)]
        for name in calls
    }
    assert [group for group, _ in critics] == list(calls)
    for group, loss in critics:
        assert loss.item() == pytest.approx(sum(terms[group]), rel=1e-5)
    # Second half of the step: no critic is shown (x, x) or (z, z) any more.
    assert [len(calls[name]) for name in calls] == [4, 3, 3]
    cycle = cross_entropy(calls["critic_xx"][2], 1) + cross_entropy(calls["critic_zz"][2], 1)
    (deceived, _), (hidden_from, _) = ((calls["critic_xz"][place], None) for place in (2, 3))
    group, loss, apart = joint
    assert group == "generator_encoder"
    assert apart["generator"].item() == pytest.approx(cross_entropy(deceived, 1) + cycle, rel=1e-5)
    assert apart["encoder"].item() == pytest.approx(cross_entropy(hidden_from, 0) + cycle, rel=1e-5)
    assert loss.item() == pytest.approx(cross_entropy(deceived, 1) + cross_entropy(hidden_from, 0) + cycle, rel=1e-5)


def gradients(loss, module):
    return torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)


def test_one_joint_loss_gives_each_network_the_gradient_of_its_own_and_critics_give_none(images):
    detector = small().train()
    *critics, (_, loss, apart) = list(detector.losses(torch.from_numpy(images[:32])))
    for name in ("generator", "encoder"):
        network = getattr(detector, name)
        for joint, own in zip(gradients(loss, network), gradients(apart[name], network), strict=True):
            torch.testing.assert_close(joint, own, rtol=1e-4, atol=1e-9)
        for _, critic_loss in critics:
            assert all(gradient is None for gradient in gradients(critic_loss, network))
    # The critics see (x, x) and (z, z) as constants of their step: nothing of them reaches E and G.
    assert any(gradient.abs().max() > 0 for gradient in gradients(apart["generator"], detector.generator))


def slow_step(detector, optimizers, x):
    """One iteration written out: five losses, five optimisers, in the order of the paper."""
    ones, zeros = torch.ones(len(x) // 2), torch.zeros(len(x) // 2)
    first, second = (x * 2 - 1).split(len(x) // 2)
    bce = binary_cross_entropy_with_logits
    encode, generate = detector.encoder, detector.generator
    z = torch.randn(len(first), detector.options.latent_size)
    ex, gz = encode(first).detach(), generate(z).detach()
    gex, egz = generate(ex).detach(), encode(gz).detach()
    losses = {
        "critic_xz": bce(detector.critic_xz(first, ex), ones) + bce(detector.critic_xz(gz, z), zeros),
        "critic_xx": bce(detector.critic_xx(first, first), ones) + bce(detector.critic_xx(first, gex), zeros),
        "critic_zz": bce(detector.critic_zz(z, z), ones) + bce(detector.critic_zz(z, egz), zeros),
    }
    for name, loss in losses.items():
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()
    z = torch.randn(len(second), detector.options.latent_size)
    ex, gz = encode(second), generate(z)
    gex, egz = generate(ex), encode(gz)
    cycle = bce(detector.critic_xx(second, gex), ones) + bce(detector.critic_zz(z, egz), ones)
    own = {
        "generator": bce(detector.critic_xz(gz, z), ones) + cycle,
        "encoder": bce(detector.critic_xz(second, ex), zeros) + cycle,
    }
    for name, loss in own.items():
        network = getattr(detector, name)
        for parameter, gradient in zip(network.parameters(), gradients(loss, network), strict=True):
            parameter.grad = gradient
    for name in own:
        optimizers[name].step()


def test_training_steps_equal_those_of_a_slow_twin(images):
    fast, twin = small(), small()
    rows = Rows(images, np.arange(64))
    run = Run(fast, rows, None, OPTIONS, None, False)
    fast.train()
    twin.train()
    optimizers = {
        name: torch.optim.Adam(getattr(twin, name).parameters(), lr=1e-3, betas=(0.5, 0.999), fused=True)
        for name in NETWORKS
    }
    for module in [*fast.modules(), *twin.modules()]:
        if isinstance(module, Dropout):
            module.rate = 0.0  # the twin's draws come in another order
    average = None
    for step in range(3):
        chosen = [np.arange(16) + 16 * step, np.arange(16)]
        run.draws.manual_seed(step)
        run.step(chosen, 1e-3)
        torch.manual_seed(step)
        slow_step(twin, optimizers, torch.from_numpy(np.concatenate([images[part] for part in chosen])))
        now = dict(twin.named_parameters())
        average = {
            name: value.detach().clone() if average is None else 0.9 * average[name] + 0.1 * value.detach()
            for name, value in now.items()
        }
    assert_close(fast.state_dict(), twin.state_dict(), atol=1e-5)
    # The moving average covers trained weights; batch norm's statistics and spectral norm's vectors are the latest.
    averaged = run.average.module
    assert_close(dict(averaged.named_parameters()), average, atol=1e-5)
    for name, buffer in averaged.named_buffers():
        assert torch.equal(buffer, dict(fast.named_buffers())[name])


def assert_close(first, second, atol):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], rtol=1e-3, atol=atol, msg=lambda text, n=name: f"{n} {text}"
        )


@pytest.mark.slow
def test_critics_and_generator_learn(digits):
    detector = small(width=16, latent_size=8)
    accuracy = []
    losses = detector.losses

    def watched(x):
        half = detector.scaled(x)[: len(x) // 2]
        with torch.no_grad():
            z = torch.randn(len(half), 8)
            real, false = detector.critic_xz(half, detector.encoder(half)), detector.critic_xz(detector.generator(z), z)
        accuracy.append((real > 0).float().mean().item() / 2 + (false < 0).float().mean().item() / 2)
        yield from losses(x)

    detector.losses = watched
    detector.fit(digits[:500], epochs=4, batch_size=16, learning_rate=2e-3, ema=0.9, keep_best=False, seed=1)
    errors = [row["validation"] for row in detector.history.epochs]
    assert np.mean(accuracy[:2]) < 0.6
    assert max(np.convolve(accuracy, np.ones(10) / 10, mode="valid")) > 0.7
    assert errors[-1] < 0.85 * errors[0]
    first = detector.history.epochs[0]
    assert {name for name in first if name.startswith("loss_")} == {
        *("loss_critic_xz", "loss_critic_xx", "loss_critic_zz", "loss_generator", "loss_encoder")
    }


def test_scores_equal_their_formulas(images):
    detector = small().fit(images, epochs=2, batch_size=16)
    x = torch.from_numpy(images[:32]) * 2 - 1
    detector.eval()
    with torch.no_grad():
        rebuilt = detector.generator(detector.encoder(x))
        same = detector.critic_xx.features(x, x).double().numpy()
        other = detector.critic_xx.features(x, rebuilt).double().numpy()
        logits = detector.critic_xx(x, rebuilt).double().numpy()
    difference = (x - rebuilt).flatten(1).double().numpy()
    expected = {
        "l1": np.linalg.norm(difference, 1, axis=1),
        "l2": np.linalg.norm(difference, 2, axis=1),
        "ch": -np.log(1 / (1 + np.exp(-logits))),
        "fm": np.linalg.norm(same - other, 1, axis=1),
    }
    for score, values in expected.items():
        found = detector.score(images[:32], score=score, feature_score=True)
        np.testing.assert_allclose(found.instance_score, values, rtol=1e-4, err_msg=score)
        by_value = np.abs(difference) if score == "l1" else difference**2
        np.testing.assert_allclose(found.feature_score.reshape(32, -1), by_value, rtol=1e-3, atol=1e-6)
    assert (
        detector.score(images[:32]).instance_score.tolist()
        == detector.score(images[:32], score="fm").instance_score.tolist()
    )
    chosen = {name: small(selection=name) for name in ("l2", "fm")}
    for name, other_detector in chosen.items():
        other_detector.load_state_dict(detector.state_dict())
        found = other_detector.eval().validation_errors(torch.from_numpy(images[:32])).detach().numpy()
        np.testing.assert_allclose(found, expected[name], rtol=1e-4)


def test_scores_come_from_the_averaged_weights_with_dropout_off(images):
    detector = small()
    rows = Rows(images, np.arange(64))
    run = Run(detector, rows, None, replace(OPTIONS, epochs=1, ema=0.5), None, False)
    run.go(resume=False)
    assert_same_bits(weights(detector), weights(run.average.module))
    detector.fitted.fill_(True)
    calls = []
    for module in detector.modules():
        if isinstance(module, Dropout):
            module.register_forward_hook(
                lambda module, inputs, result: calls.append((module.training, result is inputs[0]))
            )
    before = weights(detector)
    scores = [detector.score(images).instance_score for _ in range(2)]
    np.testing.assert_array_equal(*scores)
    assert calls
    assert set(calls) == {(False, True)}
    assert_same_bits(before, weights(detector))  # spectral norm's vectors and batch norm's statistics stand still


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch, images, epoch):
    rows, held_out = Rows(images, np.arange(48)), Rows(images, np.arange(48, 64))
    whole = small()
    train(whole, rows, held_out, OPTIONS, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, epoch)
        with pytest.raises(KilledRun):
            train(small(), rows, held_out, OPTIONS, tmp_path)
    resumed = small(seed=99)
    train(resumed, rows, held_out, OPTIONS, tmp_path, resume=True)
    assert_same_bits(weights(whole), weights(resumed))
    assert (tmp_path / STEPS).read_text() == (tmp_path / "whole" / STEPS).read_text()
    names = ["loss_critic_xz", "loss_critic_xx", "loss_critic_zz", "loss_generator", "loss_encoder"]
    assert list(table(tmp_path / STEPS)[0]) == ["epoch", "step", "learning_rate", *names]
    assert list(table(tmp_path / EPOCHS)[0]) == ["epoch", "seconds", *names, "validation"]


def test_a_step_takes_two_batches_of_the_same_epoch_in_different_orders(images):
    seen = []
    detector = small()

    def losses(x):
        seen.append(x.detach().clone())
        yield "critic_zz", sum(p.sum() for p in detector.critic_zz.parameters()) * 0

    detector.losses = losses
    train(detector, Rows(images, np.arange(64)), None, replace(OPTIONS, epochs=1))
    assert [len(x) for x in seen] == [32] * 4
    for half in (slice(0, 16), slice(16, 32)):
        shown = sorted(bytes(image.numpy()) for x in seen for image in x[half])
        assert shown == sorted(bytes(image) for image in images)
    assert not torch.equal(seen[0][:16], seen[0][16:])


def test_the_noise_of_a_process_is_its_share_of_one_draw():
    def draw(rank, world):
        with sharing(Share(rank, world, 7, torch.Generator().manual_seed(3))):
            return normal(len(range(rank, 7, world)), 2, torch.device("cpu"))

    together = draw(0, 1)
    for rank in range(3):
        assert torch.equal(draw(rank, 3), together[rank::3])


def test_what_alad_trains_by_and_sees():
    assert Alad.training_defaults == {
        **{"epochs": 100, "batch_size": 32, "learning_rate": 2e-4, "adam_beta1": 0.5, "schedule": "constant"},
        "ema": 0.999,
    }
    x = torch.tensor([0.0, 0.5, 1.0])
    np.testing.assert_allclose(small().scaled(x), [-1, 0, 1])
    np.testing.assert_allclose(small(shape=(3,)).scaled(x), x)  # vectors have units of their own


def test_generator_and_encoder_learn_from_the_second_half_and_critics_from_constants():
    detector = small().train()
    x = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    losses = {name: loss for name, loss, *_ in detector.losses(x)}
    detector.zero_grad()
    losses["critic_xz"].backward()
    assert all(one.grad is None for one in detector.parameter_groups()["generator_encoder"])
    losses["generator_encoder"].backward()
    assert all(one.grad is not None for one in detector.parameter_groups()["generator_encoder"] if one.requires_grad)


def test_what_the_critic_says_is_told_by_its_logarithm():
    detector, x = small(), torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scaled = detector.scaled(x)
        told = detector.measure(scaled, "fm").statistics
        for name in ("fm", "ch"):
            scores = detector.measure(scaled, name).instance_scores
            torch.testing.assert_close(told[f"critic_{name}"], (scores + 1e-6).log())
            assert torch.isfinite(told[f"critic_{name}"]).all()
        detector._errors = lambda *_: dict.fromkeys(("fm", "ch", "l1", "l2"), torch.zeros(4))
        assert detector.measure(scaled, "fm").statistics["critic_fm"].tolist() == pytest.approx([math.log(1e-6)] * 4)
