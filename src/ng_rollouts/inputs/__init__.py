"""Inputs: from a file or URL of tasks to the plan of rollouts."""
