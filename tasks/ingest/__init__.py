"""The step `ingest`: photographs and labels to the catalogue."""
