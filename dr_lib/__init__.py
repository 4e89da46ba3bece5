"""The science: pure functions on arrays and Keras models. Knows no Prefect, Dask, Zarr, Parquet
or file layout.
"""
