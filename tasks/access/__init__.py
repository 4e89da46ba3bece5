"""The only readers of what other steps made."""
