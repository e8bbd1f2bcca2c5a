"""cleanvision's scores of images that `audit.py outliers --pictures FOLDER` wrote, beside the audit's own.

    python benchmarks/audit.py outliers --images 700 --pictures /tmp/pictures      # in this environment
    python benchmarks/audit_cleanvision.py /tmp/pictures      # where cleanvision and scikit-learn are installed

cleanvision looks at each image by itself (dark, light, blurry, low information, grey, odd size and proportion; near
copies are left out) and has no score of how odd an image is: here it is 1 less the least of its scores, of which
those that are alike for all images say nothing. The draws are those of `audit.py`.
"""

import sys
from pathlib import Path

import numpy as np
from cleanvision import Imagelab
from sklearn.metrics import average_precision_score

_DRAWS, _SHARES = 20, (0.01, 0.05, 0.1)
_KINDS = ("dark", "light", "blurry", "low_information", "grayscale", "odd_size", "odd_aspect_ratio")


def main() -> None:
    folder = Path(sys.argv[1])
    lab = Imagelab(data_path=str(folder))
    lab.find_issues({kind: {} for kind in _KINDS})
    found = lab.issues[[f"{kind}_score" for kind in _KINDS]].min(axis=1)
    odd = {name.name: [] for name in sorted(folder.iterdir())}
    for path, score in found.items():
        odd[Path(path).parent.name].append((path, 1 - score))
    scores = {name: np.array([score for _, score in sorted(some)]) for name, some in odd.items()}
    normal = scores.pop("CIFAR-10")
    count = len(normal)
    for name, members in {**{name: [name] for name in scores}, "all five": list(scores)}.items():
        every = np.concatenate([scores[kind] for kind in members])
        figures = []
        for share in _SHARES:
            precision = []
            for seed in range(_DRAWS):
                draw = np.random.default_rng(seed)
                bad = draw.permutation(len(every))[: round(share * count)]
                kept = draw.permutation(count)[: count - len(bad)]
                truth = np.arange(count) >= len(kept)
                precision.append(average_precision_score(truth, np.concatenate([normal[kept], every[bad]])))
            figures.append(np.mean(precision))
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
