"""bfloat16 where the processor has no instructions for it: a warning that says what to use."""

import warnings

import numpy as np
import pytest
import torch

import recondite
from recondite.networks import precision

IMAGES = np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32)
FIT = {"detector": "autoencoder", "score": "error", "alpha": 0.2, "epochs": 1, "latent_size": 4, "width": 4}


@pytest.mark.parametrize("option", ["precision", "scoring_precision"])
def test_a_processor_that_computes_it_in_software_is_warned_of(option, monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_over_float32", lambda: 40.2)
    with pytest.warns(UserWarning, match=rf"40 times as long as float32.*give {option}=fp32"):
        recondite.fit(IMAGES, **{**FIT, option: "bf16"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recondite.fit(IMAGES, **FIT)


@pytest.mark.parametrize("option", ["precision", "scoring_precision"])
def test_a_processor_that_has_it_is_left_in_peace(option, monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_over_float32", lambda: 0.6)
    recondite.fit(IMAGES, **{**FIT, option: "bf16"})


def test_it_is_measured_once_as_a_ratio_of_the_shortest_times(monkeypatch):
    seconds = {torch.bfloat16: [9.0, 6.0, 7.0, 8.0], torch.float32: [5.0, 4.0, 2.0, 3.0]}
    made = []

    def ones(*shape, dtype, device):  # noqa: ARG001
        made.append(dtype)
        return torch.zeros(1, dtype=dtype)

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(precision, "_timed", lambda work: (work, seconds[made[-1]].pop(0))[1])
    precision.bfloat16_over_float32.cache_clear()
    try:
        assert precision.bfloat16_over_float32() == precision.bfloat16_over_float32() == 3.0
    finally:
        precision.bfloat16_over_float32.cache_clear()
    assert made == [torch.bfloat16, torch.float32]
