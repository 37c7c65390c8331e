"""Metrics: streaming statistics, estimators, aggregation by group and agent, comparisons."""
