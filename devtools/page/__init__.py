"""ComfyUI's page in a headless browser, driven as a person would."""
