"""Sharded arrays over images, and the ledger that says which shards are finished."""
