"""What the shipped workflows ask for, in the world that the miniature draws."""
