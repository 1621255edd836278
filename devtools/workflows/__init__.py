"""The shipped workflows: short descriptions, the files of `workflows/` that are made of them, and the prompts."""
