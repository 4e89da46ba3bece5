"""The step `counterfactuals`: changed images of missed eyes, and their comparison."""
