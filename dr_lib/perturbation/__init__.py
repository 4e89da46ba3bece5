"""Changed images: counterfactuals, adversarial examples, and how they compare (METHOD §7)."""
