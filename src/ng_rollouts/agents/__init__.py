"""Agents: what answers a rollout. A remote agent server, an agent in this process, or a packaged example."""
