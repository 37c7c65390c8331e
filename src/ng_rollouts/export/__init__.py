"""A finished file -> rows to train on, by recipe."""
