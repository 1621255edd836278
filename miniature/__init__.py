"""The miniature: a small latent diffusion model, and the drawn world that it knows.

`world/` paints that world: who there is, what can be around a face, and the pictures. It is all that a user's machine
runs. `training/` is how the weights were made and judged: captions, examples, networks, judges, the training run.
`weights/` holds the model that is shipped. `training` imports `world`, never the other way round.
"""
