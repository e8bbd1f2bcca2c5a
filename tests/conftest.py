import os
import secrets

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import recondite

# Two test processes on two cores: more threads each would only wait for one another.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# Ray reads these when it is imported, which may be before a test connects.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@pytest.fixture(scope="session")
def digits():
    """1,797 grey digits of 8 x 8 pixels, uint8."""
    return np.round(load_digits().images * (255 / 16)).astype(np.uint8)


QUICK = {
    "alad": {
        **{"latent_size": 8, "width": 16, "image_size": 16},
        **{"epochs": 6, "batch_size": 16, "learning_rate": 2e-3, "ema": 0.97},
    },
    "autoencoder": {"latent_size": 8, "width": 16, "epochs": 20, "learning_rate": 1e-2},
    "features": {"latent_size": 12, "mode": "maps", "side": 32, "layers": ("block3", "block5")},
    "vae": {"latent_size": 8, "width": 16, "epochs": 25, "learning_rate": 1e-2},
    "pca": {"latent_size": 12},
}
SHAPES = {"alad": (1, 16, 16)}
"""The shape in which a detector is tested, where it cannot be that of the digits, (1, 8, 8)."""


@pytest.fixture(scope="session")
def screens(digits):
    """A function: the name of a detector to a screen fitted on the first 1,400 digits, made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = recondite.fit(digits[:1400], detector=name, alpha=0.05, seed=1, **QUICK[name])
        return made[name]

    return get


@pytest.fixture
def folder(tmp_path, digits):
    """Forty digits as PNG files in two sub-folders."""
    root = tmp_path / "images"
    for index, digit in enumerate(digits[:40]):
        path = root / ("even" if index % 2 == 0 else "odd") / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digit).save(path)
    return root


@pytest.fixture
def data_folder():
    """The folder of real data sets; the test is skipped where there is none."""
    from recondite.catalog import data_folder as find

    found = find()
    if found is None or not found.is_dir():
        pytest.skip("needs RECONDITE_DATA, the folder of real data sets")
    return found


@pytest.fixture(scope="session")
def digit_screen(screens, tmp_path_factory):
    """The folder of a quick screen of digits, called digits."""
    folder = tmp_path_factory.mktemp("served") / "digits"
    screens("pca").save(folder)
    return folder


@pytest.fixture(scope="session")
def digit_files(digits):
    """Sixty-four digits that the screens have not learnt, every fourth of them upside down, as PNG files."""
    from service import png

    return [png(digit[::-1] if place % 4 == 3 else digit) for place, digit in enumerate(digits[1500:1564])]
