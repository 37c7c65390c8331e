"""Collect LLM rollouts by the thousand: in order, whole groups, nothing lost."""

__version__ = "0.1.0"
