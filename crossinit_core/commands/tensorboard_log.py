"""The course of a run for TensorBoard, in a folder of the token's name: loss, distance, and pictures if there are any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import check_can_write
from ..installing import install_extra
from ..text import quoted

if TYPE_CHECKING:
    from PIL.Image import Image


class TensorBoardLog:
    """A log that a run which was stopped goes on with. Nothing that goes wrong with its files ends the run: `say` gets a line."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """Raises ImportError if TensorBoard is not installed, and ValueError if the folder cannot be written."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                f"--tensorboard needs TensorBoard ({quoted(error, 120)}). Install it: {install_extra('tensorboard')}"
            ) from error
        check_can_write(folder / "events", what="log of TensorBoard")
        self._open, self._folder, self._say = SummaryWriter, folder, say
        self._writer: Any = None
        self._broken = False

    def add(self, step: int, loss: float, distance: float) -> None:
        """The numbers of a step; TensorBoard leaves out what an earlier run says of this step and of those after it."""

        def write() -> None:
            if self._writer is None:
                self._writer = self._open(str(self._folder), purge_step=step)
            self._writer.add_scalar("loss", loss, step)
            self._writer.add_scalar("distance", distance, step)

        self._try(write)

    def add_picture(self, name: str, step: int, picture: Image) -> None:
        def write() -> None:
            if self._writer is not None:
                self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

        self._try(write)

    def close(self) -> None:
        def write() -> None:
            if self._writer is not None:
                self._writer.close()

        self._try(write)
        self._writer = None

    def finish(self, losses: Sequence[float], distances: Sequence[float]) -> None:
        """After a run that was finished; steps of an earlier run are in that run's file."""
        self.close()

    def _try(self, write: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            write()
        except OSError as error:
            self._broken = True
            reason = quoted(error.strerror or error, 160)
            self._say(
                f"TensorBoard's log in '{quoted(self._folder, 250)}' could not be written ({reason}). The token is not affected."
            )
