"""Models, photos and faces that the shipped workflows ask for, made on the spot."""
