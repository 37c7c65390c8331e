"""The console scripts, one module each."""
