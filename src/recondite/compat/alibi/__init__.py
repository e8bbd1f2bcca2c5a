"""Recondite behind the interface of alibi-detect's image outlier detectors; see docs/from_alibi_detect.md."""

from recondite.compat.alibi.detectors import OutlierAE, OutlierVAE, elbo
from recondite.compat.alibi.masks import apply_mask
from recondite.compat.alibi.plots import plot_feature_outlier_image, plot_instance_score
from recondite.compat.alibi.saving import fetch_detector, load_detector, save_detector

__all__ = [
    "OutlierAE",
    "OutlierVAE",
    "apply_mask",
    "elbo",
    "fetch_detector",
    "load_detector",
    "plot_feature_outlier_image",
    "plot_instance_score",
    "save_detector",
]
