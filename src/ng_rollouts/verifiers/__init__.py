"""Verifiers: score answers by rules, by a judge model or by your own function."""
