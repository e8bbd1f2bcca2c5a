"""Labels: which are suspect, which classes overlap, are rare or have two clusters, and how many labels are wrong.

Each image is classified by a logistic regression on frozen features that was fitted without it and its copies. An image
counts as of another class when its probability of that class is at least the mean of the images labelled so, and that
of no other such class is higher (confident learning: Northcutt, Jiang and Chuang 2021, "Confident learning: estimating
uncertainty in dataset labels"). These images are the suspects, and their share is the estimate of the noise.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from recondite.audits.clusters import TWO, Clusters, two_clusters
from recondite.audits.findings import KINDS, Finding
from recondite.audits.store import Row
from recondite.progress import counted

FEWEST_OF_CLASS = 10
"""Images; classes with fewer are not judged."""
_FOLDS, _RARE, _OVERLAP = 5, 0.1, 0.1
_NAMED = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Labels:
    """What the labels of N images came to.

    Args:
        classes: names of the C classes that were judged.
        given: the number of each image's class (N,).
        own: the probability of that class (N,); the less, the likelier the label is wrong.
        suggested: the number of the class that the others say (N,).
        probability: of the suggested class (N,).
        suspect: which images count as of another class (N,).
    """

    classes: tuple[str, ...]
    given: NDArray[np.intp]
    own: Floats
    suggested: NDArray[np.intp]
    probability: Floats
    suspect: NDArray[np.bool_]

    def noise(self) -> tuple[float, float, float]:
        """Return the estimated share of wrong labels, and its 95 % interval (Wilson), by the number of suspects."""
        counted = binomtest(int(self.suspect.sum()), len(self.suspect))
        interval = counted.proportion_ci(0.95, method="wilson")
        return float(counted.statistic), float(interval.low), float(interval.high)

    def overlaps(self) -> list[tuple[str, str, float]]:
        """Return pairs of classes and the share of the first one that counts as of the second, from a tenth.

        Of the two shares of a pair it is the larger one.
        """
        count = len(self.classes)
        table = np.zeros((count, count))
        np.add.at(table, (self.given[self.suspect], self.suggested[self.suspect]), 1)
        shares = table / np.bincount(self.given, minlength=count)[:, None]
        found = [
            (self.classes[one], self.classes[two], float(shares[one, two]))
            for one, two in np.argwhere(shares >= _OVERLAP)
            if (shares[one, two], two) > (shares[two, one], one)
        ]
        return sorted(found, key=lambda pair: -pair[2])


def cross_validated(places: Floats, given: NDArray[np.intp], groups: NDArray[np.intp]) -> Floats:
    """Return the probability of each class (N, C) by a linear head fitted without the image and its group.

    Args:
        places: (N, D), features.
        given: the number of each image's class (N,), all of 0 to C - 1.
        groups: the number of each image's group (N,), such as its copies; each class has two groups or more.
    """
    found = np.zeros((len(places), int(given.max()) + 1))
    fewest = min(len(np.unique(groups[given == number])) for number in range(int(given.max()) + 1))
    folds = StratifiedGroupKFold(min(_FOLDS, fewest), shuffle=True, random_state=0)
    scaled = (places - places.mean(axis=0)) / max(float(places.std()), 1e-12)
    for fitted, judged in folds.split(scaled, given, groups):
        head = LogisticRegression(max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            head.fit(scaled[fitted], given[fitted])
        found[np.ix_(judged, head.classes_)] = head.predict_proba(scaled[judged])
    return found


def confident(probabilities: Floats, given: NDArray[np.intp], classes: Sequence[str]) -> Labels:
    """Return which labels are suspect.

    Args:
        probabilities: of each class (N, C), of models that have not seen the image.
        given: the number of each image's class (N,), all of 0 to C - 1.
        classes: names of the C classes.
    """
    usual = np.array([probabilities[given == number, number].mean() for number in range(len(classes))])
    counted = np.where(probabilities >= usual, probabilities, -1.0)
    suggested = counted.argmax(axis=1)
    suspect = (counted.max(axis=1) >= 0) & (suggested != given)
    suggested = np.where(suspect, suggested, probabilities.argmax(axis=1))
    # Where the label is the likelier of the two, the counts of the two classes are alike and nothing speaks against it.
    own = probabilities[np.arange(len(given)), given]
    suspect &= probabilities[np.arange(len(given)), suggested] > own
    return Labels(tuple(classes), given, own, suggested, probabilities[np.arange(len(given)), suggested], suspect)


def label_findings(
    rows: Sequence[Row], labels: Sequence[str], places: Floats, groups: NDArray[np.intp]
) -> tuple[list[Finding], list[str], Floats]:
    """Return the findings of labels, remarks on classes and on the noise, and the probability of each label (N,).

    Args:
        rows: of N images.
        labels: of each; "" of those without one, or that cannot be read.
        places: (N, D), features; of those without a label anything.
        groups: the number of each image's group (N,).
    """
    names, number, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    large = [place for place, name in enumerate(names) if name and sizes[place] >= FEWEST_OF_CLASS]
    judged = [place for place in large if len(np.unique(groups[number == place])) > 1]
    middle = float(np.median([sizes[place] for place in large])) if large else 0.0
    remarks = [
        f"class {str(names[place])!r} is rare: {sizes[place]:,} images"
        for place in large
        if sizes[place] < _RARE * middle
    ]
    small = [place for place, name in enumerate(names) if name and place not in large]
    if small:
        first = ", ".join(f"{str(names[place])!r} of {sizes[place]:,}" for place in small[:_NAMED])
        more = f" and {len(small) - _NAMED:,} more" if len(small) > _NAMED else ""
        remarks.append(
            f"rare: {counted(len(small), 'class', 'classes')} of fewer than {counted(FEWEST_OF_CLASS, 'image')}, whose "
            f"labels are not judged ({first}{more})"
        )
    remarks += [
        f"class {str(names[place])!r} is one group: its labels are not judged, which takes images of other groups"
        for place in large
        if place not in judged
    ]
    findings = []
    for place in large:
        of_class = np.flatnonzero(number == place)
        clusters = two_clusters(places[of_class], groups[of_class])
        if clusters is not None:
            findings += _of_smaller(rows, of_class, str(names[place]), clusters)
            remarks.append(f"class {str(names[place])!r} has two clusters: {_in_words(clusters)}")
    own = np.full(len(rows), np.nan)
    if len(judged) < 2:
        return findings, [*remarks, f"labels were not judged: that takes two classes of {FEWEST_OF_CLASS} images"], own
    kept = np.flatnonzero(np.isin(number, judged))
    given = np.searchsorted(judged, number[kept])
    found = confident(
        cross_validated(places[kept], given, groups[kept]), given, [str(names[place]) for place in judged]
    )
    findings += [
        Finding(
            int(kept[place]),
            rows[kept[place]].id,
            "label",
            float(1 - found.own[place]),
            f"{KINDS['label'][1]}: it is labelled {found.classes[given[place]]!r} and seems to be "
            f"{found.classes[found.suggested[place]]!r}, with a probability of {found.probability[place]:.2f}",
            f"{found.classes[given[place]]} > {found.classes[found.suggested[place]]}",
            suggested=found.classes[found.suggested[place]],
        )
        for place in np.flatnonzero(found.suspect)
    ]
    share, low, high = found.noise()
    agreed = float((found.suggested == found.given).mean())
    remarks.append(
        f"labels: about {share:.1%} are wrong (95 % interval {low:.1%} to {high:.1%} for chance in the number of "
        f"suspects) if the classifier is not; it agrees with {agreed:.1%} of all labels, and in classes it confuses "
        "most suspects are its own mistakes"
    )
    remarks += [
        f"classes {one!r} and {two!r} overlap: {part:.0%} of {one!r} count as {two!r}"
        for one, two, part in found.overlaps()
    ]
    own[kept] = found.own
    return findings, remarks, own


def _of_smaller(rows: Sequence[Row], of_class: NDArray[np.intp], name: str, clusters: Clusters) -> list[Finding]:
    reason = f"{KINDS['two-clusters'][1]}: {name!r}, {_in_words(clusters)}"
    return [
        Finding(int(index), rows[index].id, "two-clusters", clusters.explained, reason, f"class {name}")
        for index in of_class[clusters.smaller]
    ]


def _in_words(clusters: Clusters) -> str:
    smaller = int(clusters.smaller.sum())
    return (
        f"of {len(clusters.smaller) - smaller:,} and {smaller:,} images, which explain {clusters.explained:.2f} of the "
        f"variance along the line between them (a uniform distribution .75, two clusters from {TWO:.2g})"
    )
