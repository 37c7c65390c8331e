"""Executors: make attempts in this process or on a Ray cluster."""
