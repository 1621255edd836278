"""All that touches ComfyUI's internals, and nothing else does."""
