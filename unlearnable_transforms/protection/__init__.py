"""Whole data sets in, the same protected out."""
