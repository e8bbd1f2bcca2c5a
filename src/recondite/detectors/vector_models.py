"""What normal feature vectors are like: a decomposition, a Gaussian for each place, a bank of neighbours.

Each is fitted in one pass over vectors (N, P, F) of N images with P places, in memory that does not grow with the
number of images; processes that work together each add their own images.

Source: Ndiour et al. 2020, arXiv 2012.04250 (error of a PCA of the features); Lee et al. 2018, arXiv 1807.03888, and
Rippel et al. 2020, arXiv 2005.14140 (Mahalanobis); Defard et al. 2021, arXiv 2011.08785 (PaDiM: a Gaussian for each
place); Roth et al. 2022, arXiv 2106.08265 (PatchCore: a greedy coreset of vectors as a bank).
Differs from them: each place's covariance is shrunk towards the mean covariance of all places, the more so the fewer
images there are.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recondite.detectors.left_out import lengths_left_out, lengths_left_out_of_places
from recondite.distributed import all_reduce, rank_and_size
from recondite.statistics.axes import principal_axes

_SMALLEST = 1e-12
_CANDIDATES_OF_EACH = 10
_ITSELF = 1e-5
"""Of its squared length: so near to a vector lies what differs from it by rounding alone."""
_PROJECTED = 64
_SPARE = 8


class VectorModel(nn.Module):
    """What normal vectors (N, P, F) of N images with P places are like."""

    def begin(self, count: int, further: bool = False) -> None:
        """Forget what was learnt, unless further vectors come; `count` of all images and places will come."""
        raise NotImplementedError

    def add(self, vectors: Tensor, first: int) -> None:
        """Take in vectors (N, P, F), the first of which is number `first` of all."""
        raise NotImplementedError

    def settle(self) -> None:
        """Learn from what was added, here and in other processes."""
        raise NotImplementedError

    def distance(self, vectors: Tensor) -> Tensor:
        """Return how far vectors (N, P, F) are from normal ones (N, P)."""
        raise NotImplementedError

    def distance_left_out(self, vectors: Tensor, copies: int = 1) -> Tensor:
        """Return how far images that were learnt from would be if each had been left out with its copies (N, P).

        Args:
            vectors: (N copies, P, F), those of each image followed by those of its copies.
            copies: how many an image has, itself among them.
        """
        return self.distance(vectors[::copies])


class Decomposition(VectorModel):
    """The principal components of all vectors, whatever their place.

    Attributes:
        components: (F, F), one a row; of few vectors those that count, and zeros.
        spanned: how many directions have variances of their own: F, or fewer where there are few vectors; in the others
            all variances are equal, and what is left of a vector tells its distance there.

    Args:
        size: F, of a vector.
        kept: the number of principal components that rebuild a vector.
        shrinkage: the share of the mean variance in each variance, in [0, 1], for the Mahalanobis distance.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    count: Tensor

    def __init__(self, size: int, kept: int, shrinkage: float) -> None:
        super().__init__()
        self.kept, self.shrinkage, self.spanned = kept, shrinkage, size
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.zeros(size, size))
        self.register_buffer("variances", torch.zeros(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self._sums: list[Tensor] = []

    def begin(self, count: int, further: bool = False) -> None:  # noqa: ARG002
        self._sums = _no_sums(self.mean, self.components)
        if further and rank_and_size()[0] == 0:  # `settle` adds the sums of all processes
            mean, components = self.mean.double(), self.components.double()
            covariance = components.T @ (self.variances.double()[:, None] * components)
            self._sums = [self.count.clone(), self.count * mean, self.count * (covariance + mean.outer(mean))]

    def add(self, vectors: Tensor, first: int) -> None:  # noqa: ARG002
        flat = vectors.flatten(0, 1).double()
        count, total, products = self._sums
        count += len(flat)
        total += flat.sum(0)
        products += flat.T @ flat

    def settle(self) -> None:
        for summed in self._sums:
            all_reduce(summed)
        count, total, products = self._sums
        mean = total / count
        # Vectors have about length 1, so that float64 loses nothing of note in this difference.
        covariance = products.div_(count).sub_(mean.outer(mean))
        variances, directions = decomposed(covariance, int(count), self.kept)
        self.count.copy_(count)
        self.mean.copy_(mean)
        self.variances.copy_(variances)
        self.components.zero_()
        self.components[: directions.shape[1]] = directions.T
        self._sums = []
        self._count_directions()

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self._count_directions()

    def _count_directions(self) -> None:
        few = int(self.count) + _SPARE
        self.spanned = few if self.count > 0 and few <= len(self.mean) // 2 else len(self.mean)

    def latents(self, vectors: Tensor) -> Tensor:
        """Return the principal components that are kept of vectors (N, P, F): (N, P, kept)."""
        return (vectors - self.mean) @ self.components[: self.kept].T

    def distance(self, vectors: Tensor) -> Tensor:
        """Return the mean squared error of vectors (N, P, F) rebuilt from the components that are kept (N, P)."""
        kept = self.components[: self.kept]
        centred = vectors - self.mean
        return (centred - centred @ kept.T @ kept).square().mean(2)

    def mahalanobis(self, vectors: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance of vectors (N, P, F), over F (N, P)."""
        return self._whitened(vectors).square().sum(2) / len(self.mean)

    def mahalanobis_left_out(self, vectors: Tensor, copies: int = 1) -> Tensor:
        """Return what `mahalanobis` would for images that were learnt from, as `distance_left_out` (N, P)."""
        left_out = lengths_left_out(self._whitened(vectors), copies, self.count, 1 - self.shrinkage)
        return left_out / len(self.mean)

    def _whitened(self, vectors: Tensor) -> Tensor:
        """Return vectors (N, P, F) from the mean, whitened: along directions of their own, and what is left of them."""
        variances = (1 - self.shrinkage) * self.variances + self.shrinkage * self.variances.mean()
        variances, spanned = variances.clamp(min=_SMALLEST), self.components[: self.spanned]
        centred = vectors - self.mean
        along = centred @ spanned.T
        whitened = along / variances[: self.spanned].sqrt()
        if self.spanned == len(variances):
            return whitened
        return torch.cat([whitened, (centred - along @ spanned) / variances[-1].sqrt()], dim=2)


class PlaceGaussians(VectorModel):
    """A Gaussian for each place; the memory is that of P F^2 numbers.

    With n images, a place's covariance is n / (n + F) its own and the rest the mean of all places', plus a share of the
    mean variance.

    Args:
        places: P.
        size: F, of a vector.
        shrinkage: that share, in [0, 1].
    """

    mean: Tensor
    whitening: Tensor
    count: Tensor

    def __init__(self, places: int, size: int, shrinkage: float) -> None:
        super().__init__()
        self.shrinkage = shrinkage
        self.counted: slice | Tensor = slice(None)
        """The places whose mean covariance is meant; others have one of their own, but do not count."""
        self.register_buffer("mean", torch.zeros(places, size))
        self.register_buffer("whitening", torch.zeros(places, size, size))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self._sums: list[Tensor] = []

    def begin(self, count: int, further: bool = False) -> None:  # noqa: ARG002
        self._sums = _no_sums(self.mean, self.whitening)
        if further and rank_and_size()[0] == 0:
            mean = self.mean.double()
            squares = self._covariances().baddbmm_(mean[:, :, None], mean[:, None])
            self._sums = [self.count.clone(), self.count * mean, squares.mul_(self.count)]

    def add(self, vectors: Tensor, first: int) -> None:  # noqa: ARG002
        count, total, products = self._sums
        by_place = vectors.transpose(0, 1).double()
        count += len(vectors)
        total += by_place.sum(1)
        products.baddbmm_(by_place.transpose(1, 2), by_place)

    def settle(self) -> None:
        for summed in self._sums:
            all_reduce(summed)
        count, total, products = self._sums
        size = self.mean.shape[1]
        mean = total / count
        covariances = products.div_(count).baddbmm_(mean[:, :, None], mean[:, None], alpha=-1)
        shared = covariances[self.counted].mean(0)
        variance = shared.diagonal().mean().clamp(min=_SMALLEST)
        ridge = self._ridge * variance * torch.eye(size, dtype=shared.dtype, device=shared.device)
        own = float(count / (count + size))
        covariances.mul_(own).add_((1 - own) * shared + ridge)
        self.count.copy_(count)
        self.mean.copy_(mean)
        identity = torch.eye(size, dtype=shared.dtype, device=shared.device)
        # A few places at a time: each has F^2 numbers in float64, and so has its inverse.
        for start in range(0, len(mean), 64):
            some = slice(start, start + 64)
            factors = torch.linalg.cholesky(covariances[some])
            self.whitening[some] = torch.linalg.solve_triangular(
                factors, identity.expand_as(factors), upper=False
            ).transpose(1, 2)
        self._sums = []

    @property
    def _ridge(self) -> float:
        return max(self.shrinkage, 1e-6)

    def _covariances(self) -> Tensor:
        """Return each place's own covariance (P, F, F), float64: what `settle` mixed and whitened, the other way."""
        places, size = self.mean.shape
        identity = torch.eye(size, dtype=torch.float64, device=self.mean.device)
        covariances = torch.empty(places, size, size, dtype=torch.float64, device=self.mean.device)
        for start in range(0, places, 64):
            some = slice(start, start + 64)
            inverses = self.whitening[some].double().transpose(1, 2)
            factors = torch.linalg.solve_triangular(inverses, identity.expand_as(inverses), upper=False)
            covariances[some] = factors @ factors.transpose(1, 2)
        mixed = covariances[self.counted].mean(0)  # what is shared, and the ridge
        ridge = self._ridge / (1 + self._ridge) * mixed.diagonal().mean() * identity
        own = float(self.count / (self.count + size))
        return covariances.sub_((1 - own) * (mixed - ridge) + ridge).div_(own)

    def distance(self, vectors: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance of vectors (N, P, F), over F (N, P)."""
        return self._whitened(vectors).square().mean(2).T

    def distance_left_out(self, vectors: Tensor, copies: int = 1) -> Tensor:
        size = self.mean.shape[1]
        own = self.count / (self.count + size)
        centred = vectors - self.mean
        return lengths_left_out_of_places(centred, self.whitening, copies, self.count, own, self.counted) / size

    def _whitened(self, vectors: Tensor) -> Tensor:
        """Return vectors (N, P, F) from the mean of their place, whitened (P, N, F)."""
        return (vectors - self.mean).transpose(0, 1) @ self.whitening


class Drawn:
    """Vectors drawn at random, without regard to order or process, from all that are added.

    Args:
        count: of all the vectors that will come.
        most: how many are kept at most.
        size: F, of a vector.
        device: where they are kept.
    """

    def __init__(self, count: int, most: int, size: int, device: torch.device) -> None:
        self._chosen = np.sort(np.random.default_rng(0).permutation(count)[:most])
        self._vectors = torch.zeros(len(self._chosen), size, device=device)

    def add(self, vectors: Tensor, first: int) -> None:
        """Keep those that were drawn of vectors (N, P, F), the first of which is number `first` of all."""
        flat = vectors.flatten(0, 1)
        start, end = np.searchsorted(self._chosen, [first, first + len(flat)])
        self._vectors[start:end] = flat[self._chosen[start:end] - first]

    def gathered(self) -> Tensor:
        """Return the vectors (n, F) that were drawn, from all processes."""
        return all_reduce(self._vectors)


class Bank(VectorModel):
    """Normal vectors to compare with: a greedy coreset, each vector as far as possible from those before it.

    The coreset is that of ten times as many vectors, drawn from all of them at random. Further vectors join those in
    the bank as candidates, so that it is the coreset of a coreset (Indyk et al. 2014, PODS, on composable ones).

    Args:
        size: F, of a vector.
        most: the number of vectors in the bank.
        neighbours: the number of nearest ones that the distance is averaged over.
    """

    vectors: Tensor
    filled: Tensor

    def __init__(self, size: int, most: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.register_buffer("vectors", torch.zeros(most, size))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self._drawn: Drawn | None = None
        self._known = torch.empty(0, size)

    def begin(self, count: int, further: bool = False) -> None:
        most, size = self.vectors.shape
        self._drawn = Drawn(count, _CANDIDATES_OF_EACH * most, size, self.vectors.device)
        self._known = self.vectors[: int(self.filled)].clone() if further else self.vectors[:0]

    def add(self, vectors: Tensor, first: int) -> None:
        assert self._drawn is not None
        self._drawn.add(vectors, first)

    def settle(self) -> None:
        assert self._drawn is not None
        candidates = torch.cat([self._known, self._drawn.gathered()])
        chosen = greedy_coreset(candidates, min(len(candidates), len(self.vectors)))
        self.vectors.zero_()
        self.vectors[: len(chosen)] = candidates[chosen]
        self.filled.fill_(len(chosen))
        self._drawn, self._known = None, self.vectors[:0]

    def distance(self, vectors: Tensor) -> Tensor:
        """Return the mean distance of vectors (N, P, F) to their nearest neighbours (N, P)."""
        return self._nearest(vectors, self.neighbours).mean(2)

    def distance_left_out(self, vectors: Tensor, copies: int = 1) -> Tensor:
        # What is nearest to a vector in the bank is the vector itself; those of copies stay there.
        vectors = vectors[::copies]
        nearest = self._nearest(vectors, self.neighbours + 1)
        itself = nearest[..., 0].square() <= _ITSELF * vectors.square().sum(2)
        return torch.where(itself, nearest[..., 1:].mean(2), nearest[..., :-1].mean(2))

    def _nearest(self, vectors: Tensor, count: int) -> Tensor:
        """Return the distances of vectors (N, P, F) to the nearest ones in the bank (N, P, count), ascending."""
        flat, bank = vectors.flatten(0, 1), self.vectors
        squared = flat.square().sum(1, keepdim=True) + bank.square().sum(1) - 2 * flat @ bank.T
        empty = torch.arange(len(bank), device=bank.device) >= self.filled
        squared = torch.where(empty, torch.inf, squared)
        nearest = squared.topk(count, dim=1, largest=False).values
        return nearest.clamp(min=0).sqrt().reshape(*vectors.shape[:2], count)


def logarithm(distances: Tensor) -> Tensor:
    """Return the logarithms of distances, finite where one is 0."""
    return (distances + _SMALLEST).log()


def _no_sums(mean: Tensor, products: Tensor) -> list[Tensor]:
    """Return zeros, float64: of a count, of sums and of sums of products in the shapes given."""
    zero = torch.zeros((), dtype=torch.float64, device=mean.device)
    return [zero, torch.zeros_like(mean, dtype=torch.float64), torch.zeros_like(products, dtype=torch.float64)]


def decomposed(covariance: Tensor, count: int, least: int) -> tuple[Tensor, Tensor]:
    """Return the variances (F,) of a covariance (F, F) of `count` vectors, largest first, and its directions (F, D).

    Of few vectors it has no more than that many directions: these are found within its product with random vectors
    (Halko, Martinsson, Tropp 2011, arXiv 0909.4061), exactly but for rounding. Then D is that number or `least`, and
    what lies beyond is any basis, with no variance; else D is F.
    """
    size, few = len(covariance), count + _SPARE
    if few > size // 2:
        variances, directions = principal_axes(covariance)
        return variances.flip(0).clamp(min=0), directions.flip(1)
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(size, few, dtype=covariance.dtype, generator=generator).to(covariance.device)
    spanned = torch.linalg.qr(covariance @ random).Q
    variances, directions = principal_axes(spanned.T @ covariance @ spanned)
    # The reflections that make columns of zeros orthogonal to the others give the basis.
    wanted = nn.functional.pad(spanned @ directions.flip(1), (0, max(0, least - few)))
    return torch.cat([variances.flip(0).clamp(min=0), variances.new_zeros(size - few)]), torch.linalg.qr(wanted).Q


def greedy_coreset(vectors: Tensor, size: int) -> Tensor:
    """Return the indices (size,) of vectors (n, F), each the farthest from those before it.

    Distances are those of a fixed random projection, which keeps their order nearly (Johnson and Lindenstrauss).

    >>> greedy_coreset(torch.tensor([[0.0], [1.0], [10.0], [4.0]]), 3)
    tensor([0, 2, 3])
    """
    if vectors.shape[1] > _PROJECTED:
        generator = torch.Generator().manual_seed(0)
        projection = torch.randn(vectors.shape[1], _PROJECTED, generator=generator)
        vectors = vectors @ projection.to(vectors.device)
    chosen = torch.zeros(size, dtype=torch.int64, device=vectors.device)
    nearest = torch.full((len(vectors),), torch.inf, device=vectors.device)
    for number in range(1, size):
        nearest = torch.minimum(nearest, (vectors - vectors[chosen[number - 1]]).square().sum(1))
        chosen[number] = nearest.argmax()
    return chosen


def at_least(vectors: Tensor, rows: int) -> Tensor:
    """Return vectors (N, P, F) with zeros behind them (rows, P, F): products of fewer rows have other last bits."""
    if torch.compiler.is_compiling() or len(vectors) >= rows:
        return vectors
    return nn.functional.pad(vectors, (0, 0, 0, 0, 0, rows - len(vectors)))
