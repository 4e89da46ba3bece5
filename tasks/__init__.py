"""The bridge between `dr_lib` and `storage`: a folder for each step, and what all steps share.

A step imports no other step. What another step made is read through `access`; `run` holds what one
run shares, and `execution` hands work to Dask and shows it to Prefect.
"""
