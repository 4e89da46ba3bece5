"""Small files of a workspace, its lock and its working folders: on a local folder or any fsspec
URL.
"""
