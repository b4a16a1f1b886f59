"""How well a model knows how often it is right."""

import numpy as np

BINS = 15


def expected_calibration_error(correct: np.ndarray, top: np.ndarray, bins: int = BINS) -> float:
    """The mean over images of how far confidence lies from accuracy, in bins of equal mass (Naeini et al., AAAI 2015;
    of equal mass: Nixon et al., CVPR Workshops 2019).

    Args:
        correct: (N,) bool, whether each image is right.
        top: (N,) probability of the class that it was taken for.
        bins: of as many images each as can be, in the order of `top`; images of equal confidence in theirs.
    """
    order = np.argsort(top, kind="stable")
    gaps = np.array_split(np.asarray(top, np.float64)[order] - np.asarray(correct)[order], bins)
    return float(sum(abs(gap.sum()) for gap in gaps) / len(top))
