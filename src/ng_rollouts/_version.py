"""The version, in the one place that packaging, commands and files read."""

__version__ = "0.1.0"
