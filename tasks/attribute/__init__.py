"""The step `attribute`: explanations of the chosen images, and what they will cost."""
