"""How alike two models' features are."""

import numpy as np

FEWEST = 4  # images from which on the unbiased HSIC is defined


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of two models' features of the same images, debiased: 1 where one is a rotated,
    scaled and shifted form of the other, about 0 where they have nothing in common.

        CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),  K = x xT,  L = y yT  (Kornblith et al., ICML 2019, section 3)

    with the unbiased HSIC of Song et al. (JMLR 13, 2012, theorem 2): without it, CKA rises towards 1 as features get
    more than images are. With diagonals set to zero,

        HSIC = [tr(K L) + (sum K)(sum L) / ((n - 1)(n - 2)) - 2 / (n - 2) sum(K L)] / (n (n - 3)).

    Args:
        x, y: (n, k) and (n, l) features, n at least FEWEST.

    Returns:
        At most 1; 0 where a model gives every image the same features.
    """
    if len(x) != len(y) or len(x) < FEWEST:
        raise ValueError(f"CKA needs the features of the same images, {FEWEST} at least, not of {len(x)} and {len(y)}")
    K, L = _gram(x), _gram(y)
    own = _hsic(K, K) * _hsic(L, L)
    return float(_hsic(K, L) / np.sqrt(own)) if own > 0 else 0.0


def _gram(x: np.ndarray) -> np.ndarray:
    """(n, n) float64 products of features without the diagonal. HSIC does not depend on their mean or scale, so both
    are taken out: it keeps the sums small.
    """
    given = np.asarray(x, dtype=np.float64)
    x = given - given.mean(0)
    size = np.abs(x).max()
    alike = size <= 1e-9 * np.abs(given).max()  # then rounding is all that is left
    gram = np.zeros((len(x), len(x))) if alike else (x / size) @ (x / size).T  # (n, n) = (n, k) @ (k, n)
    np.fill_diagonal(gram, 0)
    return gram


def _hsic(K: np.ndarray, L: np.ndarray) -> float:
    """The unbiased HSIC of two (n, n) symmetric matrices with zero diagonals, times n (n - 3)."""
    n = len(K)
    rows, columns = K.sum(1), L.sum(1)  # (n,), (n,)
    return float((K * L).sum() + rows.sum() * columns.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ columns)
