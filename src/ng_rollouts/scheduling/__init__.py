"""Scheduling: which rollout is attempted when. Knows no files, no HTTP and no configuration."""
