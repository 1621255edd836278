"""What both backbones need to know of a model's networks."""
