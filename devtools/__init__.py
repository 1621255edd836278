"""What helps to develop this pack, and none of it product: nothing that users' ComfyUI runs imports it.

Imports point down this list, never up, and have no circle:

    commands     the commands of run.py
    docs         pictures of the documentation and of the help pages, texts of the nodes
    demo         `run.py demo`: learn a face, judge the pictures
    standins     models, photos and faces for machines without model weights
    workflows    the shipped workflows: descriptions, files, prompts
    page         ComfyUI's page in a headless browser
    comfyui      a ComfyUI server and its client, older releases
    setup        .venv, .host, the browser

`release` stands alone. run.py imports `commands` on a Python that has nothing installed yet, so `commands`, `setup`, and of
`comfyui` the modules `links`, `older` and `server` use the standard library only, and no `__init__` imports anything.
"""
