"""Tests of the control of a run."""
