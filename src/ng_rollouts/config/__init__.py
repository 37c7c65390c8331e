"""Parameters of the command: definition, validation, config groups, overrides, help."""
