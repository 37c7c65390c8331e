"""Executors: where attempts run. In this process or on a Ray cluster."""
