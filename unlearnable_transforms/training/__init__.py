"""Training: one loop for victims and surrogates alike, and its differentiable augmentations."""
