"""The principal axes of a covariance."""

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
    except torch.linalg.LinAlgError:
        found = eigh(covariance.cpu().numpy(), driver="evr")
        variances, directions = (torch.from_numpy(one).to(covariance) for one in found)
    return variances, directions
