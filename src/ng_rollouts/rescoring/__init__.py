"""Score collected rollouts again, without asking the model again."""
