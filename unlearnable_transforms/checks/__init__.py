"""Checks that publishing and auditing share: leaks, encodings, pairs."""
