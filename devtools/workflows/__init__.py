"""The workflow files of `workflows/`: written from short descriptions, and turned into what the page sends."""
