"""Squared lengths of vectors that were learnt from, as if their image had been left out with its copies.

Source: Sherman, Morrison and Woodbury. Without the k of n vectors in the columns of C, measured from the mean, with the
sum s, a covariance loses (C C' + s s' / (n - k)) / n and then grows by n / (n - k); the mean loses s / (n - k).
"""

import torch
from torch import Tensor

_MOST_LOST = 0.9999
_STEPS, _MOST_PLACES, _AT_ONCE = 3, 256, 16


def lengths_left_out(whitened: Tensor, copies: int, count: Tensor, own: float | Tensor) -> Tensor:
    """Return squared lengths (N, P), exactly, by a covariance that the vectors have a share in.

    Args:
        whitened: (N k, P, F), vectors from the mean, by the covariance that lengths are measured by.
        copies: k, of each image, itself the first.
        count: n, of the vectors.
        own: the share of the vectors' own covariance in that one.
    """
    of_image = whitened.reshape(-1, copies, *whitened.shape[1:]).transpose(1, 2)
    products = (of_image @ of_image.transpose(2, 3)).double()  # (N, P, k, k)
    moved, root = _moved_and_root(copies, count.double())
    root = root * (own / count).sqrt()
    towards = products @ moved
    shares, directions = torch.linalg.eigh(root @ products @ root)
    along = ((towards @ root)[..., None, :] @ directions)[..., 0, :]
    gained = (along.square() / (1 - shares.clamp(max=_MOST_LOST))).sum(2)
    lengths: Tensor = (towards @ moved + gained) * _shrunk(copies, count)
    return lengths.to(whitened.dtype)


def lengths_left_out_of_places(
    centred: Tensor, whitening: Tensor, copies: int, count: Tensor, own: Tensor, counted: slice | Tensor
) -> Tensor:
    """Return squared lengths (N, P) where the covariance of a place has a share of what all places have.

    An image's vectors are lost from that too, and resemble one another: of few images with few places that is most of
    what is lost. Above 256 places, where it is little and takes long, a place's own vector is lost alone.

    Source: as many steps of conjugate gradients as tell lengths to a few hundredths, from below (Golub and Meurant
    2010, Matrices, Moments and Quadrature, on such forms).

    Args:
        centred: (N k, P, F), vectors from the mean of their place.
        whitening: (P, F, F), of the covariances.
        copies: k, of each image, itself the first.
        count: n, of the vectors of a place.
        own: the share of a place's own covariance; the rest is the mean of those of the counted places.
        counted: which these are.
    """
    sharing = whitening[counted].shape[0]
    if centred.shape[1] > _MOST_PLACES:
        whitened = (centred.transpose(0, 1) @ whitening).transpose(0, 1)
        return lengths_left_out(whitened, copies, count, own + (1 - own) / sharing)
    moved, root = (made.to(centred) for made in _moved_and_root(copies, count.double()))
    own, count = own.to(centred), count.to(centred)
    lengths = []
    for some in torch.split(centred.reshape(-1, copies, *centred.shape[1:]), _AT_ONCE):
        columns = torch.einsum("ij,njpf->nipf", root, some)  # with products C C' + s s' / (n - k)
        of_place = columns.permute(2, 0, 1, 3)  # (P, N, k, F)
        # One product a place: with the images as further axes, each would have a copy of its matrix.
        ours = (of_place.flatten(1, 2) @ whitening).reshape(of_place.shape)
        shared = columns[:, :, counted].flatten(1, 2)  # (N, k counted places, F)

        def lost(vectors: Tensor, ours: Tensor = ours, shared: Tensor = shared) -> Tensor:
            """Return what whitened vectors (P, N, F) lose of themselves."""
            of_own = (ours * (ours @ vectors[..., None])).sum(2)
            back = (vectors @ whitening.transpose(1, 2)).transpose(0, 1)  # (N, P, F)
            of_all = (back @ shared.transpose(1, 2)) @ shared / sharing
            return (own * of_own + (1 - own) * (of_all.transpose(0, 1) @ whitening)) / count

        left = torch.einsum("k,nkpf->pnf", moved, some) @ whitening
        towards, squared = left, left.square().sum(2)
        found = torch.zeros_like(squared)
        for _ in range(_STEPS):
            kept = towards - lost(towards)
            least = (1 - _MOST_LOST) * towards.square().sum(2)
            step = squared / (towards * kept).sum(2).maximum(least).clamp(min=torch.finfo(squared.dtype).tiny)
            found += step * squared
            left = left - step[..., None] * kept
            before, squared = squared, left.square().sum(2)
            towards = left + (squared / before.clamp(min=torch.finfo(squared.dtype).tiny))[..., None] * towards
        lengths.append(found.T)
    return torch.cat(lengths) * _shrunk(copies, count)


def _moved_and_root(copies: int, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return what makes the first copy's vector from the mean that is left (k,), and a root of I + 1 1' / (n - k)."""
    others = (count - copies).clamp(min=1)
    moved = torch.full((copies,), float(1 / others), dtype=torch.float64, device=count.device)
    moved[0] += 1
    root = torch.eye(copies, dtype=torch.float64, device=count.device)
    return moved, root + ((1 + copies / others).sqrt() - 1) / copies


def _shrunk(copies: int, count: Tensor) -> Tensor:
    """Return what lengths are multiplied by where a covariance is that of n - k vectors, and its sums are theirs."""
    return (1 - copies / count).clamp(min=0)
