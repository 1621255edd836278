"""The paper's claims measured in the drawn world: what is run, by whom, and what follows from the numbers."""
