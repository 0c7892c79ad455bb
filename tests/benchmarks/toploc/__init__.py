"""Figures of verification, side by side with the published `toploc` package: `make bench-toploc`."""
