"""Pictures for people: arrays and numbers in, pixels and files' bytes out. Nothing of the science
imports this package."""
