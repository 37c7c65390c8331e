"""The console scripts, one module per command."""
