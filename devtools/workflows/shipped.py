"""Every graph of `workflows/` by the name of its file.

File names are what people's links and notes say, so those that are there keep theirs, and new ones are numbered on.
"""

from __future__ import annotations

from .faces import change_the_expression, one_face_many_prompts, other_embeddings, two_people, use_a_learned_face
from .graph import App, Workflow
from .learning import compare_initializations, learn_a_face, learn_a_face_fast, learn_from_several_photos
from .miniature import WORKFLOW as MINIATURE
from .miniature import try_it_without_downloads
from .sdxl import learn_a_face_on_sdxl, sdxl_with_controlnet
from .stock import inpaint_into_a_photo, lora_and_second_pass, with_controlnet

WORKFLOWS: dict[str, Workflow] = {
    "01-learn-a-face": learn_a_face(),
    "02-use-a-learned-face": use_a_learned_face(),
    "03-learned-face-with-controlnet": with_controlnet(),
    MINIATURE: try_it_without_downloads(),
    "05-learn-a-face-fast": learn_a_face_fast(),
    "06-one-face-many-prompts": one_face_many_prompts(),
    "07-change-the-expression": change_the_expression(),
    "08-two-people": two_people(),
    "09-lora-and-second-pass": lora_and_second_pass(),
    "10-inpaint-into-a-photo": inpaint_into_a_photo(),
    "11-learn-from-several-photos": learn_from_several_photos(),
    "12-compare-initializations": compare_initializations(),
    "13-bring-in-other-embeddings": other_embeddings(),
    "14-learn-a-face-on-sdxl": learn_a_face_on_sdxl(),
    "15-sdxl-with-controlnet": sdxl_with_controlnet(),
}

APPS: dict[str, App] = {
    "01-learn-a-face": App(
        [("photo", "image"), ("learn", "name"), ("learn", "preset"), ("positive", "text"), ("checkpoint", "ckpt_name")],
        ["save_picture"],
    ),
    "02-use-a-learned-face": App(
        [("face", "file"), ("positive", "text"), ("apply", "strength"), ("checkpoint", "ckpt_name")],
        ["save_picture"],
    ),
    MINIATURE: App(
        [("person", "seed"), ("learn", "name"), ("dressed_prompt", "text"), ("dressed_prompt", "strength")],
        ["plain_save", "dressed_save"],
    ),
}
"""The workflows that App mode shows as a form with a result."""
