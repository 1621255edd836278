"""How the miniature's weights were made: captions, data, networks, judges and the training run."""
