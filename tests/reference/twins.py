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


def mirrored(index, side):
    """The pixel that an index beyond the border stands for, the border pixel being there twice."""
    index %= 2 * side
    return index if index < side else 2 * side - 1 - index


def surroundings(image, row, column, radius, sigma):
    """(weight, value) of each pixel of a Gaussian window around one pixel of an image (H, W)."""
    height, width = image.shape
    window = [
        (math.exp(-(y * y + x * x) / (2 * sigma**2)), image[mirrored(row + y, height), mirrored(column + x, width)])
        for y in range(-radius, radius + 1)
        for x in range(-radius, radius + 1)
    ]
    total = sum(weight for weight, _ in window)
    return [(weight / total, float(value)) for weight, value in window]


def smoothed(image, sigma):
    out = np.zeros(image.shape)
    for row, column in np.ndindex(image.shape):
        window = surroundings(image, row, column, max(1, round(4 * sigma)), sigma)
        out[row, column] = sum(weight * value for weight, value in window)
    return out


def ssim_error(one, other):
    c1, c2 = 0.01**2, 0.03**2
    radius = min(5, (min(one.shape) - 1) // 2)
    out = np.zeros(one.shape)
    for row, column in np.ndindex(one.shape):
        window = surroundings(one, row, column, radius, 1.5)
        weights = [weight for weight, _ in window]
        a = [value for _, value in window]
        b = [value for _, value in surroundings(other, row, column, radius, 1.5)]
        mean_a, mean_b = np.dot(weights, a), np.dot(weights, b)
        variance_a = sum(w * (v - mean_a) ** 2 for w, v in zip(weights, a, strict=True))
        variance_b = sum(w * (v - mean_b) ** 2 for w, v in zip(weights, b, strict=True))
        covariance = sum(w * (v - mean_a) * (u - mean_b) for w, v, u in zip(weights, a, b, strict=True))
        luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        out[row, column] = 1 - luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)
    return out


def multi_scale_error(one, other):
    difference = one.astype(float) - other
    out = np.zeros(difference.shape)
    for row, column in np.ndindex(difference.shape):
        for scale in (1, 2, 4):
            top, left = row // scale * scale, column // scale * scale
            out[row, column] += difference[top : top + scale, left : left + scale].mean() ** 2 / 3
    return out


def worst_square(scores, side):
    pixels = np.mean(scores, axis=0, dtype=float)
    height, width = pixels.shape
    return max(
        pixels[top : top + side, left : left + side].mean()
        for top in range(height - side + 1)
        for left in range(width - side + 1)
    )


def log_sum_exp(values):
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def max_softmax(logits):
    return np.array([log_sum_exp(row) - max(row) for row in logits])


def energy(logits, temperature=1.0):
    return np.array([-temperature * log_sum_exp([value / temperature for value in row]) for row in logits])


def length_one(vector):
    return np.asarray(vector, dtype=float) / math.sqrt(sum(float(value) ** 2 for value in vector))


def distance_of_neighbour(features, bank, neighbour):
    return np.array([sorted(math.dist(length_one(row), other) for other in bank)[neighbour - 1] for row in features])


def nearest_class_mahalanobis(features, means, covariance):
    inverse = np.linalg.inv(covariance)
    found = []
    for row in features:
        differences = [length_one(row) - mean for mean in means]
        found.append(min(difference @ inverse @ difference for difference in differences))
    return np.array(found)


def vim(features, logits, origin, principal, scale):
    """ViM by the principal directions (D, P) that are left out, not by the residual ones."""
    found = []
    for row, values in zip(features, logits, strict=True):
        centred = row - origin
        left = centred - principal @ (principal.T @ centred)
        found.append(scale * math.sqrt(sum(left**2)) - log_sum_exp(values))
    return np.array(found)
