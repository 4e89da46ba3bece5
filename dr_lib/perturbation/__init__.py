"""Changed images: counterfactuals, adversarial examples, and how they compare (METHOD §7)."""

from dr_lib.perturbation.counterfactual import perturb
