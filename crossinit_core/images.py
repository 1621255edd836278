"""The earlier place of `load_photo`, for programs that import it from here; the package itself offers it now."""

from .photos.images import load_photo

__all__ = ["load_photo"]
