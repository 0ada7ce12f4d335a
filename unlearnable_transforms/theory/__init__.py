"""Why CUDA works and what robustness costs, on Gaussian mixtures, where both can be computed: exactly, and by chance.

Stands apart: nothing here imports the rest of the package, nor the other way round. Needs NumPy and torch.
"""

from .latent import (
    bayes_direction,
    latent_map,
    monte_carlo_linear,
    poisoned_accuracy,
    poisoned_rule,
    robust_accuracy,
    robust_direction,
    standard_accuracy,
)
from .mixtures import (
    Estimate,
    Rule,
    accuracy,
    bayes_rule,
    blur_matrix,
    chernoff_bound,
    class_accuracies,
    clean_accuracy,
    eigenvalues,
    eigenvectors,
    linear_accuracy,
    linear_rule,
    mean_vector,
    monte_carlo,
    printed_bound,
)
from .quadratic import chernoff, normal_cdf, probability_positive

__all__ = [
    "mean_vector",
    "bayes_rule",
    "linear_rule",
    "accuracy",
    "class_accuracies",
    "clean_accuracy",
    "linear_accuracy",
    "monte_carlo",
    "chernoff_bound",
    "printed_bound",
    "blur_matrix",
    "eigenvalues",
    "eigenvectors",
    "Rule",
    "Estimate",
    "latent_map",
    "bayes_direction",
    "robust_direction",
    "standard_accuracy",
    "robust_accuracy",
    "monte_carlo_linear",
    "poisoned_rule",
    "poisoned_accuracy",
    "probability_positive",
    "chernoff",
    "normal_cdf",
]
