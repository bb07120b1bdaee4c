"""Local contrast normalisation (Jarrett et al. 2009), the preparation of SVHN in paper 000 and Goodfellow et al. 2013."""
from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d


def local_contrast_normalization(images: np.ndarray, size: int = 7, sigma: float = 2.0, threshold: float = 1e-4,
                                 edges: str = "reflect") -> np.ndarray:
    """Return images with the local mean subtracted and divided by the local deviation, each channel on its own.

    With a Gaussian window ``G`` of ``size`` by ``size`` pixels and sum 1,

        v = x - G * x,   d = sqrt(G * v²),   y = v / max(d, mean of d over the image, threshold):

    where there is less contrast than in the image on the whole, noise is not blown up.

    Parameters
    ----------
    images : float array (N, H, W, C)
        Values of order 1, such as [0, 1].
    size : int
        Pixels along each side of the window; odd.
    sigma : float
        Standard deviation of the Gaussian in pixels.
    threshold : float
        Least divisor, in units of the images.
    edges : str
        What lies outside the image, as in scipy.ndimage. Goodfellow et al. took zeros ("constant"), which draws a frame
        around bright images.

    Returns
    -------
    array (N, H, W, C) of the same type

    Raises
    ------
    ValueError
        If `size` is even or a number is not positive.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size is {size!r}; it must be a positive odd number of pixels")
    if not (sigma > 0 and threshold > 0):
        raise ValueError(f"sigma and threshold are {sigma!r} and {threshold!r}; they must be positive")
    window = np.exp(-(np.arange(size) - size // 2) ** 2 / (2 * sigma**2))
    window /= window.sum()

    def smooth(array: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(array, window, axis=1, mode=edges), window, axis=2, mode=edges)

    centred = images - smooth(images)
    deviation = np.sqrt(smooth(centred**2))
    divisor = np.maximum(deviation, deviation.mean(axis=(1, 2), keepdims=True))
    return centred / np.maximum(divisor, images.dtype.type(threshold))
