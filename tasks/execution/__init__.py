"""Where work runs: the Dask pool, waves of shards, devices, what a worker keeps loaded."""
