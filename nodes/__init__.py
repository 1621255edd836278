"""The graph surface: sockets in, a call to `crossinit_core`, sockets out."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .blending import CrossInitBlend, CrossInitRescale
from .faces import CrossInitPrepareFace
from .initialization import CrossInitInitialize, CrossInitInitializeWords
from .learn.node import CrossInitLearn
from .miniature import CrossInitDrawnPerson, CrossInitMiniature
from .names import CrossInitCelebrityNames
from .prompt_list import CrossInitPromptList
from .prompts import CrossInitApply, CrossInitEncodePrompt
from .report import CrossInitReport
from .token_files import CrossInitLoad, CrossInitSave

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
    CrossInitMiniature,
    CrossInitDrawnPerson,
]


class CrossInitExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
