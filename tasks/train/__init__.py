"""The step `train`: a model, its grades and its record."""
