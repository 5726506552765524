"""Draws simple shapes; shared by the scripts in this folder."""
import numpy as np

KINDS = ("square", "disc", "cross")


def draw(kind, size=32, rng=np.random):
    """One grey image of a shape at a random place."""
    image = 0.1 * rng.rand(size, size).astype("float32")
    row, column = rng.randint(size // 4, 3 * size // 4, size=2)
    r = size // 6
    rows, columns = np.ogrid[:size, :size]
    if kind == "square":
        mask = (abs(rows - row) <= r) & (abs(columns - column) <= r)
    elif kind == "disc":
        mask = (rows - row) ** 2 + (columns - column) ** 2 <= r * r
    else:
        mask = ((rows == row) & (abs(columns - column) <= r)) | (
            (columns == column) & (abs(rows - row) <= r)
        )
    image[mask] = 1.0
    return image[..., None], mask


def draw_many(count, size=32, seed=0):
    """Images (count, size, size, 1), masks of the same shape, kinds (count,)."""
    rng = np.random.RandomState(seed)
    kinds = rng.randint(0, len(KINDS), size=count)
    pairs = [draw(KINDS[k], size, rng) for k in kinds]
    images = np.stack([image for image, _ in pairs])
    masks = np.stack([mask for _, mask in pairs])[..., None].astype("uint8")
    return images, masks, kinds
