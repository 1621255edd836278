"""Stand-ins that the miniature is behind: the shipped workflows in its painted world."""
