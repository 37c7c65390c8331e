"""Integrations: send a finished run to wandb, mlflow or trackio, or write it as Parquet."""
