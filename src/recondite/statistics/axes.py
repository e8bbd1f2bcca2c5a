"""The principal axes of a covariance, and how far to trust its variances."""

import torch
from scipy.linalg import eigh
from torch import Tensor


def principal_axes(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances (F,), smallest first, and the directions, as columns (F, F), of a covariance (F, F).

    LAPACK's divide and conquer, which torch calls, does not converge for some covariances with many columns of zeros,
    as features that no image shows have; relatively robust representations (Dhillon and Parlett 2004), which scipy
    calls "evr", then take over.
    """
    try:
        variances, directions = torch.linalg.eigh(covariance)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        found = eigh(covariance.cpu().numpy(), driver="evr")
        variances, directions = (torch.from_numpy(one).to(covariance) for one in found)
    return variances, directions


def oracle_shrinkage(variances: Tensor, count: int) -> float:
    """Return how much of the mean variance, in (0, 1], to mix into each to bring a covariance nearest to the true one.

    Source: Chen, Wiesel, Eldar, Hero 2010, arXiv 0907.4698 (oracle approximating shrinkage), for normal vectors; the
    fewer there are and the more alike the variances, the larger.

    Args:
        variances: (F,), along the principal axes.
        count: of the vectors whose covariance it is.
    """
    size, squares, square = len(variances), float(variances.square().sum()), float(variances.sum()) ** 2
    spread = (count + 1 - 2 / size) * (squares - square / size)
    found = (1 - 2 / size) * squares + square
    return min(1.0, found / spread) if spread > 0 else 1.0
