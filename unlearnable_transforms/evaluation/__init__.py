"""Victims x defenses, measured: cells, tables and reports."""
