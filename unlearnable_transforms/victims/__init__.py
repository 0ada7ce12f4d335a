"""Victim networks: what an unauthorised party would train on the published data."""
