"""Agents, which produce rollouts: remote agents, Python agents, model agents and the packaged examples."""
