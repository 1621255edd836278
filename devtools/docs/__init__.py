"""Makes the pictures of the documentation, and reads the texts of the nodes."""
