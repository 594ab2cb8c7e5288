"""Generator of pictures for the example."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw


def paint(directory: Path, count: int, *, seed: int = 1) -> None:
    """Paints `count` different pictures, two copies of the first, and a file that is no picture in spite of its name."""
    directory.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    for number in range(count):
        size = chance.randint(320, 1280), chance.randint(240, 960)
        picture = Image.linear_gradient("L").resize(size).convert("RGB")
        draw = ImageDraw.Draw(picture)
        for _ in range(12):
            x, y, radius = chance.randrange(size[0]), chance.randrange(size[1]), chance.randint(10, 160)
            colour = chance.randrange(256), chance.randrange(256), chance.randrange(256)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        picture.save(directory / f"picture-{number:03}.jpg", quality=85)
    first = (directory / "picture-000.jpg").read_bytes()
    for copy in ("copy.jpg", "another-copy.jpg"):
        (directory / copy).write_bytes(first)
    (directory / "broken.jpg").write_bytes(b"not a picture at all")
