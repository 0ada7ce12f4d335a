"""Victim networks: what an unauthorised party would train on the published data."""

from . import nets as nets  # these two register the built-in networks
from . import standard as standard
from .registry import build_surrogate, build_victim, list_victims, register_victim

__all__ = ["build_surrogate", "build_victim", "list_victims", "register_victim"]
