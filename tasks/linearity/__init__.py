"""The step `linearity`: units along adversarial examples of growing strength."""
