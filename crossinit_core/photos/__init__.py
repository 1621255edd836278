"""From somebody's photos to square training pictures and masks."""
