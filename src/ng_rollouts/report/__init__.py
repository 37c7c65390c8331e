"""Report: rollouts to one HTML page."""
