"""The graph surface: sockets in, a call to `crossinit_core`, sockets out."""

from __future__ import annotations

import logging
from pathlib import Path

from comfy_api.latest import ComfyExtension, io

from .blending import CrossInitBlend, CrossInitRescale
from .faces import CrossInitPrepareFace
from .host.copies_of_pack import other_copies
from .host.faces_routes import add_face_routes
from .host.page import listen_to_queueing
from .initialization import CrossInitInitialize, CrossInitInitializeWords
from .learn.node import CrossInitLearn
from .likeness import CrossInitLikeness
from .miniature import CrossInitDrawnPerson, CrossInitMiniature
from .names import CrossInitCelebrityNames
from .prompt_list import CrossInitPromptList
from .prompts import CrossInitApply, CrossInitEncodePrompt
from .report import CrossInitReport
from .token_files import CrossInitLoad, CrossInitSave

log = logging.getLogger(__name__)

NODES: list[type[io.ComfyNode]] = [
    CrossInitCelebrityNames,
    CrossInitInitialize,
    CrossInitInitializeWords,
    CrossInitPrepareFace,
    CrossInitLearn,
    CrossInitApply,
    CrossInitEncodePrompt,
    CrossInitPromptList,
    CrossInitSave,
    CrossInitLoad,
    CrossInitBlend,
    CrossInitRescale,
    CrossInitReport,
    CrossInitLikeness,
    CrossInitMiniature,
    CrossInitDrawnPerson,
]


class CrossInitExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def on_load(self) -> None:
        """Once, before the nodes are asked for."""
        listen_to_queueing()
        add_face_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        own = Path(__file__).resolve().parents[1]
        for other in other_copies((node.define_schema().node_id for node in NODES), own):
            log.warning(
                "CrossInit is installed twice: in '%s' and in '%s'. ComfyUI uses the second. Delete one of the two folders and "
                "restart.",
                other,
                own,
            )
        return NODES
