"""Images on which an undone protection can be judged, and how near it comes."""

import numpy as np
from folders import photograph

from unlearnable_transforms.pixels import psnr

LABELS = [0, 1, 2, 3] * 5
TOKENS = [f"i:{label}" for label in LABELS]


def textured(count: int = 20, height: int = 32, width: int = 32) -> np.ndarray:
    """Pictures with plain areas, edges and a little noise; the brightest pixel is 255."""
    generator = np.random.default_rng(5)
    images = np.stack([photograph(seed, height, width) for seed in range(count)]).astype(int)
    images += generator.integers(-6, 7, images.shape)
    images[:, 5:9, 4:12] = 255
    return images.clip(0, 255).astype(np.uint8)


def quality(clean: np.ndarray, other: np.ndarray) -> np.ndarray:
    """PSNR of each picture; 99 where it is exact."""
    return np.array([min(99.0, psnr(*pair)) for pair in zip(clean, other, strict=True)])
