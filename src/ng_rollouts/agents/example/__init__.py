"""Packaged agents: simulated policies over arithmetic, behind a real ASGI app of NeMo Gym's shape."""
