"""Export: rollouts to training data."""
