"""Task of the thumbnails: hashes one picture and makes its thumbnail."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypedDict

from PIL import Image, ImageOps, UnidentifiedImageError
from triarch import GiveUp, Triarch

app = Triarch(queue="thumbnails")


class Seen(TypedDict):
    """Hash, size and thumbnail of a picture."""

    path: str
    sha256: str
    size: list[int]
    thumbnail: str


@app.task(timeout=30)
def look_at(path: str, out_dir: str, side: int) -> Seen:
    """Hashes a picture and writes its thumbnail.

    The name of the thumbnail is the hash. The finished file is moved to its place. A repeated or concurrent run therefore changes
    nothing.
    """
    data = Path(path).read_bytes()
    name = hashlib.sha256(data).hexdigest()
    out = Path(out_dir) / f"{name[:16]}.png"
    try:
        with Image.open(path) as picture:
            size = list(picture.size)
            if not out.exists():
                small = ImageOps.contain(picture.convert("RGB"), (side, side))
                unfinished = out.with_suffix(f".{os.getpid()}.tmp")
                small.save(unfinished, format="PNG")
                unfinished.rename(out)
    except UnidentifiedImageError as error:
        raise GiveUp(f"{path} is no picture") from error
    return {"path": path, "sha256": name, "size": size, "thumbnail": out.name}
