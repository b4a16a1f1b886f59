"""What frozen features hold of a dataset's classes: linear probes on all images or on a few, and nearest neighbours."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ovit_core.study.store import Images

NEIGHBOURS = 20
Labelled = tuple[np.ndarray, np.ndarray]  # (n, k) float32 features, (n,) labels


def probe(features: Labelled, C: float) -> Any:
    """L2 logistic regression of inverse strength C on standardized features."""
    x, y = features
    small = x.size * len(np.unique(y)) < 1e9  # threads cost such fits more than they bring: twelve times as long
    # The loss is a mean: with many classes its gradient is small from the start, and a looser tolerance would end the
    # fit there. This one gives the converged accuracy to 0.1 points; where the limit ends it first, so be it.
    with warnings.catch_warnings(), threadpool_limits(1 if small else None):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000, tol=1e-5)).fit(x, y)


def choose(train: Labelled, val: Labelled, Cs: Sequence[float]) -> tuple[dict[float, float], float, Any]:
    """The validation accuracy of the probe with each C, the first C with the best, and its probe."""
    fits = {C: probe(train, C) for C in Cs}
    tried = {C: float(fit.score(*val)) for C, fit in fits.items()}
    best = max(tried, key=lambda C: tried[C])
    return tried, best, fits[best]


def neighbours(features: Labelled) -> Any:
    """The vote of the NEIGHBOURS nearest images by cosine, each with one voice; nothing in it is tuned."""
    count = min(NEIGHBOURS, len(features[1]))
    return KNeighborsClassifier(count, metric="cosine", algorithm="brute").fit(*features)


def together(*parts: Labelled) -> Labelled:
    """Parts of a split as one."""
    x, y = zip(*parts)
    return np.concatenate(x), np.concatenate(y)


def few(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Indices of `shots` images a class, or of all that a class has, drawn by a seed: those of fewer shots are among
    those of more.
    """
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)]))


def some(count: int, most: int, seed: int) -> np.ndarray:
    """Indices of at most so many of `count` images, drawn by a seed: nested as those of `few` are."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def told(classifier: Any, features: Labelled) -> Images:
    """What a classifier makes of each image. A class that it has never seen has probability zero."""
    x, y = features
    odds = classifier.predict_proba(x)  # (n, classes that it knows)
    known = classifier.classes_
    place = np.minimum(np.searchsorted(known, y), len(known) - 1)
    own = np.where(known[place] == y, odds[np.arange(len(y)), place], 0.0)
    right = known[odds.argmax(1)] == y
    return Images(right, -np.log(np.maximum(own, np.finfo(float).tiny)), odds.max(1))
