"""Commands a person types. Nothing heavy is imported before the command that needs it."""
