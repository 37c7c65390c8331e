"""Storage: files of any kind. Knows nothing of rollouts."""
