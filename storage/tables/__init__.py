"""Parquet tables: their columns and their parts."""
