import numpy as np
import pytest
import torch

from recondite.statistics.axes import oracle_shrinkage, principal_axes


def test_a_covariance_that_torch_gives_up_on_has_axes(monkeypatch):
    """Seen with 6,000 images of noise, 1,213 of whose 1,904 features were never more than zero."""
    rows = np.random.default_rng(0).normal(size=(50, 12))
    rows[:, 4:9] = 0
    covariance = torch.from_numpy(np.cov(rows.T))
    usual = principal_axes(covariance)[0]

    def gives_up(_):
        raise torch.linalg.LinAlgError("failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    variances, directions = principal_axes(covariance)
    np.testing.assert_allclose(variances, usual, atol=1e-12)
    np.testing.assert_allclose(directions @ torch.diag(variances) @ directions.T, covariance, atol=1e-12)
    np.testing.assert_allclose(directions.T @ directions, np.eye(12), atol=1e-12)


@pytest.mark.parametrize(("count", "size"), [(30, 40), (200, 20), (5000, 3)])
def test_shrinkage_is_that_of_the_paper(count, size):
    draws = np.random.default_rng(1)
    rows = draws.normal(size=(count, size)) * draws.uniform(0.5, 3, size)
    s = rows.T @ rows / count
    trace, squares = np.trace(s), np.trace(s @ s)
    twin = ((1 - 2 / size) * squares + trace**2) / ((count + 1 - 2 / size) * (squares - trace**2 / size))
    assert oracle_shrinkage(torch.linalg.eigvalsh(torch.from_numpy(s)), count) == pytest.approx(min(1, twin), rel=1e-9)


@pytest.mark.parametrize("variances", [[0.0, 0.0], [2.0, 2.0, 2.0], [5.0]])
def test_what_does_not_vary_or_varies_alike_is_its_own_mean(variances):
    assert oracle_shrinkage(torch.tensor(variances, dtype=torch.float64), 10) == 1


def test_no_more_than_all_of_the_mean_is_mixed_in():
    nearly_alike = torch.tensor([1.0, 1.01, 0.99], dtype=torch.float64)
    assert oracle_shrinkage(nearly_alike, 2) == 1


def test_units_do_not_matter():
    variances = torch.tensor([0.2, 1.0, 3.0, 9.0], dtype=torch.float64)
    assert oracle_shrinkage(variances / 1000, 50) == pytest.approx(oracle_shrinkage(variances, 50), rel=1e-12)
    assert oracle_shrinkage(variances, 50) < 0.2
