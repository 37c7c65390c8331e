"""The packaged examples: simulated policies that solve arithmetic problems, as ASGI apps like NeMo Gym's agents."""
