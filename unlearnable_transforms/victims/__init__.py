"""Victim networks: what an unauthorised party would train on the published data."""

from .registry import build_surrogate, build_victim, list_victims, register_victim, takes_weights

__all__ = ["build_surrogate", "build_victim", "list_victims", "register_victim", "takes_weights"]
