"""Rollout health: which rollouts and tasks measure nothing, and why."""
