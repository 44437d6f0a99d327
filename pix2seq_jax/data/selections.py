"""A source made of another one: one row for each object."""

import numpy as np

from pix2seq_jax.data.source import ObjectSource


class PerObject:
    """Rows of one object each, for tasks that look at one object: raw features of its image with
    that object only.

    Crowd regions have no row. The rows of an image follow each other.

    Attributes:
        source: what it is made of.
        rows: i64[len,2], (row in the source, number of the object there) of each row.
        fields: as in the source.
    """

    def __init__(self, source: ObjectSource, *, min_keypoints: int = 0) -> None:
        """Lists the objects.

        Args:
            source: of the images.
            min_keypoints: objects with fewer labelled keypoints get no row.

        Raises:
            ValueError: keypoints are asked for that the source does not give, or no object is left.
        """
        if min_keypoints and "keypoints" not in source.fields:
            raise ValueError(
                f"min_keypoints={min_keypoints}: the source gives no keypoints; open it with "
                "keypoints=True"
            )
        table = source.objects()
        keep = ~table["is_crowd"] & (table["num_keypoints"] >= min_keypoints)
        if not keep.any():
            raise ValueError(
                f"none of {len(keep)} objects is left: crowd regions are left out, and "
                f"min_keypoints={min_keypoints}"
            )
        self.source, self.fields = source, source.fields
        self.rows = np.stack([table["image"], table["number"]], axis=1).astype(np.int64)[keep]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        """Raw features of one object."""
        row, number = self.rows[index].tolist()
        return self.source.take(row, [number])

    def without_image(self, index: int) -> dict:
        """The raw features of one object, but for `image`: nothing is read."""
        row, number = self.rows[index].tolist()
        return self.source.without_image(row, [number])

    def load(self, file: str) -> bytes:
        """That of the source."""
        return self.source.load(file)

    def describe(self) -> str:
        """That of the source."""
        return self.source.describe()
