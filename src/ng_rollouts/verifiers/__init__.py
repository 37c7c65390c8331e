"""Verifiers: what scores an answer."""
