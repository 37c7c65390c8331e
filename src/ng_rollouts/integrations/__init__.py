"""Integrations: a finished run to wandb, mlflow, trackio or Parquet."""
