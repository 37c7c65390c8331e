"""Read the input: from a file or URL to tasks and the plan of their rollouts."""
