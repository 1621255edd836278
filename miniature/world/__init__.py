"""The drawn world: who there is (`identity`, `people`), what is around a face (`scene`), and the pictures (`painter`).

The only part of the miniature's code that runs on a user's machine. It needs NumPy and Pillow alone.
"""
