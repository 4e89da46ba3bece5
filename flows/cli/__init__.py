"""The `dr` command, one module a group of commands."""
