"""How the miniature's weights were made and judged.

`captions`, `names`, `population` and `data` make examples; `model`, `judge`, `contrast` and `sampling` are the networks and what
they are used for; `recipes`, `pool`, `trainer`, `phases` and `train` are the training run; `pack` writes and reads what is shipped,
and `evaluation` says how good it is.
"""
