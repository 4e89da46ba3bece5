"""The user's photographs and labels as they come: folders, archives, label files. Reads, never
writes.
"""
