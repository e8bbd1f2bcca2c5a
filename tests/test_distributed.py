"""Several processes, in the environment that torchrun gives them, against one."""

import runpy
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
from processes import run_in_processes
from safetensors.torch import load_file

from recondite.detectors import build
from recondite.distributed import Share, all_gather, rank_and_size, shard_of, sharing, unsharded
from recondite.networks.layers import BatchNorm, has_unsynchronised_batch_norm
from recondite.screen.screen import load

# 44 images in steps of 14: a last step of two, of which the third process holds none.
SCRIPT = """
    import os, pathlib, sys
    import numpy as np, torch
    from PIL import Image
    from safetensors.torch import save_file
    from recondite import fit, torch_state
    from recondite.training import loop as training
    from recondite.detectors import build
    from recondite.distributed import rank_and_size
    torch.set_num_threads(1)
    folder, pictures = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    images = np.random.default_rng(0).random((44, 3, 16, 16), dtype=np.float32)
    one_precision, single = training.Run.to_device, torch_state._OWN[0][:2]
    for name, options in [("autoencoder", {"width": 4}), ("vae", {"width": 4}), ("alad", {"width": 8})]:
        if name == "alad":
            torch_state._OWN[0] = (*single, torch.float64)
            training.Run.to_device = lambda run, batch: one_precision(run, batch).double()
        detector = build(name, image_shape=(3, 16, 16), latent_size=5, **options)
        training_options = {"epochs": 3, "batch_size": 14, "learning_rate": 1e-3, "augment": "flip,zoom", "ema": 0.5}
        detector.fit(images, device="cpu", validation=images[:10], **training_options)
        if os.environ.get("RANK", "0") == "0":
            save_file({k: v.contiguous() for k, v in detector.state_dict().items()}, folder / name)
    torch_state._OWN[0] = (*single, torch.float32)
    training.Run.to_device = one_precision
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, stride=4), torch.nn.LeakyReLU())
    local = {"methods": ("padim", "patchcore"), "layers": ["1"], "place_layers": ["1"], "latent_size": 3}
    local |= {"backbone": backbone, "bank_size": 500}
    detector = build("features", image_shape=(3, 16, 16), side=16, **local)
    detector.fit(np.random.default_rng(2).random((230, 3, 16, 16), dtype=np.float32))
    if os.environ.get("RANK", "0") == "0":
        learnt = {k: v.contiguous() for k, v in detector.state_dict().items() if "backbone" not in k}
        save_file(learnt, folder / "features")
    detector = build("features", image_shape=(3, 16, 16), side=16, **{**local, "methods": ("dfr",)})
    detector.fit(np.random.default_rng(2).random((130, 3, 16, 16), dtype=np.float32), epochs=2)
    if os.environ.get("RANK", "0") == "0":
        learnt = {k: v.contiguous() for k, v in detector.state_dict().items() if "dfr" in k}
        save_file(learnt, folder / "dfr")
    for name, options in [("vae", {"epochs": 2, "width": 4}), ("pca", {})]:
        screen = fit(str(pictures), detector=name, latent_size=4, evidence=0.3, calibration=0.3, alpha=0.1, **options)
        if os.environ.get("RANK", "0") == "0":
            screen.save(folder / f"{name}-screen")
    assert rank_and_size() == (0, 1)
    # Whoever is first may go on alone.
    if os.environ.get("RANK", "0") == "0":
        screen.recalibrated(str(pictures))
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Folders of what one process, and three, have fitted."""
    from PIL import Image

    root = tmp_path_factory.mktemp("processes")
    (root / "pictures").mkdir()
    for number, pixels in enumerate(np.random.default_rng(1).integers(0, 256, (501, 8, 8), dtype=np.uint8)):
        Image.fromarray(pixels).save(root / "pictures" / f"{number:03d}.png")
    (root / "pictures" / "100a.png").write_bytes(b"no picture")
    script = root / "fit.py"
    script.write_text(textwrap.dedent(SCRIPT))
    one, three = ([str(script), str(root / name), str(root / "pictures")] for name in ("one", "three"))
    for name in ("one", "three"):
        (root / name).mkdir()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", one)
        warnings.simplefilter("ignore")
        runpy.run_path(str(script))
    run_in_processes(3, *three)
    return root


@pytest.mark.parametrize("name", ["autoencoder", "vae", "alad"])
@pytest.mark.slow
def test_three_processes_give_the_weights_of_one(fitted, name):
    """Within 2e-5, after steps that moved them by a hundred times that: sums are rounded in another order.

    ALAD in double precision: Adam lets the sign of a gradient near zero decide, and its game makes more of it.
    """
    one, three = load_file(fitted / "one" / name), load_file(fitted / "three" / name)
    width = 8 if name == "alad" else 4
    first = build(name, image_shape=(3, 16, 16), latent_size=5, width=width).state_dict()
    assert max(float((one[key].double() - first[key].double()).abs().max()) for key in one) > 2e-3
    for key, value in one.items():
        torch.testing.assert_close(three[key], value, rtol=1e-4, atol=2e-5, msg=key)


@pytest.mark.slow
def test_processes_share_the_statistics_of_features(fitted):
    """Four batches, of which the first process has two; vectors for neighbours come from all of them."""
    one, three = load_file(fitted / "one" / "features"), load_file(fitted / "three" / "features")
    bank = one.pop("models.patchcore.vectors")
    assert (bank.abs().sum(1) > 0).all()
    assert torch.equal(bank, three.pop("models.patchcore.vectors"))
    # The signs of principal components are anybody's.
    for name in one.keys() - {"whole.components"}:
        torch.testing.assert_close(three[name], one[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_processes_train_on_the_vectors_of_all(fitted):
    one, three = load_file(fitted / "one" / "dfr"), load_file(fitted / "three" / "dfr")
    assert one.keys() == three.keys()
    for name, value in one.items():
        torch.testing.assert_close(three[name], value, rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.slow
def test_what_needs_no_training_is_the_same_to_the_bit(fitted):
    one, three = load(fitted / "one" / "pca-screen"), load(fitted / "three" / "pca-screen")
    assert one.facts == three.facts
    assert len(one.calibrator.scores) == 150  # more batches than processes
    assert np.array_equal(one.calibrator.scores, three.calibrator.scores)
    assert one.evidence is not None
    for name, values in one.evidence.tensors().items():
        assert np.array_equal(values, three.evidence.tensors()[name]), name
    assert one.peaks.tolist() == three.peaks.tolist()


@pytest.mark.slow
def test_evidence_and_calibration_of_trained_screens_agree(fitted):
    one, three = load(fitted / "one" / "vae-screen"), load(fitted / "three" / "vae-screen")
    assert one.score == three.score == "auto"
    for name in one.facts.keys() - {"map_scale"}:
        assert one.facts[name] == three.facts[name]
    assert one.facts["unreadable"]["count"] == 1
    np.testing.assert_allclose(three.observations["error"], one.observations["error"], rtol=1e-4)
    np.testing.assert_allclose(three.calibrator.scores, one.calibrator.scores, rtol=0.02, atol=0.02)


def test_one_process_does_all_the_work_in_order():
    assert rank_and_size() == (0, 1)
    assert shard_of([5, 6, 7]) == unsharded([5, 6, 7]) == [5, 6, 7]
    assert all_gather("x") == ["x"]


@pytest.mark.parametrize(("rank", "rows"), [(0, [0, 2]), (1, [1]), (2, [0])])
def test_a_process_without_a_row_holds_the_first(rank, rows):
    share = Share(rank, 3 if rank == 2 else 2, 2 if rank == 2 else 3, torch.Generator())
    assert share.idle == (rank == 2)
    assert np.arange(3)[share.mine].tolist() == rows


def test_batch_norm_of_torch_is_not_synchronised():
    assert not has_unsynchronised_batch_norm(torch.nn.Sequential(BatchNorm(3), torch.nn.ReLU()))
    assert has_unsynchronised_batch_norm(torch.nn.Sequential(BatchNorm(3), torch.nn.BatchNorm1d(3)))


def test_batch_norm_of_one_process_is_that_of_torch():
    ours, theirs = BatchNorm(3), torch.nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    with sharing(Share(0, 1, 4, torch.Generator())):
        torch.testing.assert_close(ours(x), theirs(x))
