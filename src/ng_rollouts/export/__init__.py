"""Export: convert rollouts to training data."""
