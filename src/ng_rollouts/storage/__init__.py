"""Storage: local, compressed and remote files. Nothing here depends on rollouts."""
