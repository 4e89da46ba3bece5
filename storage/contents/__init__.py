"""What a workspace holds: fundi, models, explanations and what belongs to them."""
