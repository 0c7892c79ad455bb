"""Commonweight: strangers train one model together and get paid for work that checks out."""

__version__ = "0.1.0"

__all__ = ["__version__"]
