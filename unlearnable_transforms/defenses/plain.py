"""Plain training, to which all defenses are compared."""

from .base import Defense, register_defense


@register_defense("erm")
class Plain(Defense):
    """Empirical risk minimisation by the recipe alone: every hook is that of plain training."""
