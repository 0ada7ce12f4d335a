"""Noise: what additive methods add to each picture, found by the picture's id, and kept between runs."""
