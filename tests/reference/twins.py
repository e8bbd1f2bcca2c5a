"""One loop or one formula each, in plain numpy and Python."""

import math
from fractions import Fraction

import numpy as np


def top_mean(values, top_percent):
    ordered = sorted((float(value) for value in np.ravel(values)), reverse=True)
    kept = math.ceil(Fraction(str(top_percent)) * len(ordered) / 100)
    return sum(ordered[:kept]) / kept


def p_value(calibration, score):
    return (1 + sum(1 for other in calibration if other >= score)) / (len(calibration) + 1)


def auroc(inliers, outliers):
    wins = sum((b > a) + 0.5 * (b == a) for a in inliers for b in outliers)
    return wins / (len(inliers) * len(outliers))


def average_precision(inliers, outliers):
    total, previous_recall = 0.0, 0.0
    for threshold in sorted(set(inliers) | set(outliers), reverse=True):
        caught = sum(b >= threshold for b in outliers)
        flagged = caught + sum(a >= threshold for a in inliers)
        recall = caught / len(outliers)
        total += (recall - previous_recall) * caught / flagged
        previous_recall = recall
    return total


def share_flagged_when_most_caught(positives, negatives, share=Fraction(95, 100)):
    """The share of negatives at the highest threshold (score >= t) that catches the wanted share of positives."""
    for threshold in sorted(set(positives), reverse=True):
        if Fraction(sum(p >= threshold for p in positives), len(positives)) >= share:
            return sum(n >= threshold for n in negatives) / len(negatives)
    raise AssertionError("unreachable")


def benjamini_hochberg(p_values, rate):
    order = np.argsort(p_values)
    largest = 0
    for rank, index in enumerate(order, start=1):
        if p_values[index] <= rate * rank / len(p_values):
            largest = rank
    flags = np.zeros(len(p_values), dtype=bool)
    flags[order[:largest]] = True
    return flags
