"""The drawn world: who there is, and the pictures of them. The part that users' machines run."""
