"""Scheduling: decides which rollout is attempted when. It does not use files, HTTP or the configuration."""
