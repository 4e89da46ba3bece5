"""The user's photographs and labels, read from folders, archives and label files; never written."""
