"""Frames by hand and from boxes, without any detector: where they are, and what they cut out."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from crossinit_core.photos.faces import Framing, prepare_faces
from crossinit_core.photos.framing import Frame, cut, frame_of_mask, share_inside


def test_by_hand_the_whole_square_comes_out_untouched() -> None:
    photo = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0))
    prepared = prepare_faces(photo, Framing(by_hand=True, resolution=128))
    torch.testing.assert_close(prepared.images, photo, atol=1e-5, rtol=0)


def test_by_hand_is_where_the_numbers_say() -> None:
    photo = torch.zeros(1, 200, 400, 3)
    photo[:, 100:120, 300:320] = 1
    image = prepare_faces(photo, Framing(by_hand=True, x=0.775, y=0.55, side=0.4, resolution=64)).images[0, ..., 0]
    rows, columns = (image > 0.5).nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max()) + 1) == pytest.approx((24, 40), abs=1)
    assert (int(columns.min()), int(columns.max()) + 1) == pytest.approx((24, 40), abs=1)


def test_roll_straightens_a_turned_head() -> None:
    """A head that is turned clockwise stands upright after a roll by the same degrees."""
    photo = torch.zeros(1, 200, 200, 3)
    photo[:, 95:105, 100:180] = 1  # points to three o'clock
    image = prepare_faces(photo, Framing(by_hand=True, roll=90, resolution=64)).images[0, ..., 0]
    assert float(image[8:28, 31:33].mean()) > 0.9 and float(image[36:].max()) < 0.1  # and now to twelve


def test_a_large_frame_is_reduced_without_moire() -> None:
    grain = torch.rand(1, 1500, 1500, 1, generator=torch.Generator().manual_seed(0)).round().expand(-1, -1, -1, 3)
    image = prepare_faces(grain, Framing(by_hand=True, resolution=64, roll=10, side=0.7)).images
    assert float(image.mean()) == pytest.approx(0.5, abs=0.01) and float(image.std()) < 0.1


def test_drawn_portraits_are_framed_without_detector() -> None:
    """They are framed by hand or by a box: OpenCV finds no drawn faces."""
    from crossinit_core import load_celebrity_names
    from miniature.world.people import held_out_person, named_vectors, portrait

    names = named_vectors(load_celebrity_names().names)
    drawn = torch.tensor(portrait(held_out_person(0, names), 0)).float()[None] / 255
    by_hand = prepare_faces(drawn, Framing(by_hand=True, resolution=128))
    torch.testing.assert_close(by_hand.images, drawn, atol=1e-5, rtol=0)
    by_box = prepare_faces(drawn, Framing(resolution=128), boxes=[[{"x": 44, "y": 34, "width": 46, "height": 56}]])
    assert by_box.images.shape == (1, 128, 128, 3) and "of bounding_box" in by_box.summary()
    assert float(by_hand.masks[0, 50:80, 50:80].mean()) > 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 500}, "resolution is 500"),
        ({"face": 0}, "face is 0"),
        ({"zoom": 0.0}, "zoom is 0"),
        ({"x": 1.5}, "x is 1.5"),
        ({"by_hand": True, "x": 1.0, "y": 1.0, "side": 0.02, "zoom": 0.25}, "outside of the photo"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_faces(torch.rand(1, 100, 100, 3), Framing(**change))


def test_cut_mirrors_or_blackens_what_is_outside() -> None:
    white = torch.ones(1, 1, 64, 64)
    corner = Frame(0, 0, 64)
    assert float(cut(white, corner, 64).min()) == pytest.approx(1)
    black = cut(white, corner, 64, fill="zeros")[0, 0]
    assert float(black[:30, :30].max()) == 0 and float(black[34:, 34:].min()) == pytest.approx(1)
    assert share_inside(corner, 64, 64) == pytest.approx(0.25, abs=0.02)
    assert frame_of_mask(torch.zeros(8, 8)) is None


def test_boxes_are_sorted_by_photo(pack: ModuleType) -> None:
    boxes_of_photos = pack.nodes.faces.boxes_of_photos
    a, b = {"x": 1}, {"x": 2}
    assert boxes_of_photos([a]) == [[a]]  # a single box
    assert boxes_of_photos([a, b]) == [[a], [b]]  # a list on the wire
    assert boxes_of_photos([[a, b]]) == [[a, b]]  # two faces of one photo
    assert boxes_of_photos([[[a], [a, b]]]) == [[a], [a, b]]  # a batch
    assert boxes_of_photos([[]]) == [[]]
