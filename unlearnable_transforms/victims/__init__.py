"""Victim networks: what an unauthorised party would train on the published data."""

from unlearnable_transforms.victims import nets as nets  # these two register the built-in networks
from unlearnable_transforms.victims import standard as standard
from unlearnable_transforms.victims.registry import build_victim, initialise, list_victims, register_victim

__all__ = ["build_victim", "initialise", "list_victims", "register_victim"]
