"""The step `preprocess`: photographs to normalised fundi."""
