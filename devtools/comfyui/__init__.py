"""A ComfyUI server of one's own, and what it says."""
