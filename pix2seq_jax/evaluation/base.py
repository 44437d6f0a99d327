"""What a task is on the host: the files it reads, the results it writes, how these are scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import ml_collections
import numpy as np

from pix2seq_jax.data.coco.files import Storage
from pix2seq_jax.data.coco.folder import CocoDir
from pix2seq_jax.evaluation.metrics import coco

Part = Mapping[str, np.ndarray]  # what a task's `decode` gives, on the host


class Rows(NamedTuple):
    """The rows of what was decoded.

    Attributes:
        image_ids: of each row.
        sizes: height and width of each row's image in pixels.
        category_ids: category id of label l at l - 1; () without classes.
        text: makes words of text pieces (data.text.Text); None without captions.
    """

    image_ids: Sequence[int]
    sizes: Sequence[tuple[int, int]]
    category_ids: Sequence[int] = ()
    text: Any = None


@dataclass
class Opening:
    """What the tasks open their sources with. A file that several tasks read is opened once.

    Attributes:
        paths: kind of annotations -> (storage of images, annotation file).
        labels: what labels stand for, as arguments of CocoDir.
        reads: what becomes of bad input, and the cache, as arguments of CocoDir.
        text: makes pieces of captions (data.text.Text); None without captions.
        flip_pairs: names of keypoints that change places in a mirror image.
        outline_points: points of an outline; 0: nobody reads outlines.
        follows: whether other files must have the classes of the first one that is opened.
    """

    paths: Callable[[str], tuple[Storage, str]]
    labels: dict[str, tuple]
    reads: dict[str, Any]
    text: Any
    flip_pairs: Sequence[Sequence[str]]
    outline_points: int
    follows: bool
    _instances: CocoDir | None = field(default=None, init=False)

    def instances(self) -> CocoDir:
        """The source of boxes and outlines."""
        if self._instances is None:
            paths = self.paths("annotations")
            source = CocoDir(*paths, max_points=self.outline_points, **self.labels, **self.reads)
            if self.follows:
                names = {"label_ids": source.category_ids, "label_names": source.category_names}
                self.labels = names
            self._instances = source
        return self._instances


class HostTask(Protocol):
    """The host half of a task.

    A host task is a frozen dataclass that inherits from this class; its line in
    `evaluation.HOST_TASKS` makes it known. Its fields say how the task is evaluated. They are
    fields of the task's section in a config, and may change when a run goes on.

    Attributes:
        name: that of the device half.
        annotations: which annotation file of a data section it reads: "annotations", "keypoints" or
            "captions".
        needs_boxes: whether boxes of another task, of the annotations or of a file prompt it.
        finds_boxes: whether its boxes prompt other tasks.
        needs_text: whether it needs a text model.
        has_classes: whether its source has objects with classes and boxes.
        lists_all_classes: whether its annotation file lists all classes of the data.
        metrics: names of the numbers that `score` gives.
        main_metric: the one that the best checkpoint is chosen by.
        from_data: fields of its section that the training data decide.
        min_keypoints: an object with fewer labelled keypoints is not trained on.
    """

    name: ClassVar[str]
    annotations: ClassVar[str]
    needs_boxes: ClassVar[bool] = False
    finds_boxes: ClassVar[bool] = False
    needs_text: ClassVar[bool] = False
    has_classes: ClassVar[bool] = True
    lists_all_classes: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]]
    main_metric: ClassVar[str]
    from_data: ClassVar[tuple[str, ...]] = ()
    min_keypoints: ClassVar[int] = 0

    def open(self, opening: Opening, section: ml_collections.ConfigDict) -> Any:
        """The source of a split (data.source.Source).

        Raises:
            ValueError: a file is missing or cannot be used.
        """
        return opening.instances().without_polygons()

    @staticmethod
    def outline_points(section: ml_collections.ConfigDict) -> int:
        """Points of each outline that the task reads; 0 for none."""
        return 0

    def resolve(self, config: ml_collections.ConfigDict, source: Any) -> None:
        """Fills in what the training data decide, in a config that has its classes."""

    @staticmethod
    def check(names: Any, config: ml_collections.ConfigDict, *, where: str) -> None:
        """Compares what `resolve` filled in with a source, or with the data section of a config.

        Raises:
            ValueError: they differ.
        """

    @staticmethod
    def count_unseen(source: Any) -> None:
        """Puts into the report of a training source what the task never sees of it."""

    def prompting(self, data: ml_collections.ConfigDict, category_ids: list[int]) -> list | None:
        """Labels of the boxes that prompt it; None for all."""
        return None

    def prompts(self, annotation: Mapping[str, Any]) -> bool:
        """Whether an annotated object that is no crowd prompts it."""
        return True

    def most_objects(self, *, final: bool) -> int:
        """So many of the best-scored boxes of an image prompt it, while training and in a final
        evaluation."""
        return 0

    def results(self, part: Part, rows: Rows) -> list[dict]:
        """COCO results, with `image_id`; those of a task that needs boxes have the `bbox` too."""
        raise NotImplementedError

    def score(
        self, source: Any, annotations: Mapping[str, Any], results: list[dict], image_ids: list[int]
    ) -> dict[str, Any]:
        """The metrics of the images; `annotations` is the COCO dictionary of the source, {} where
        it has no classes."""
        raise NotImplementedError

    def compare(
        self, source: Any, annotations: Mapping[str, Any], results: list[dict], image_ids: list[int]
    ) -> coco.Comparison | None:
        """The results beside the annotations, as pycocotools matched them; None where it is not
        asked. Arguments as in `score`."""
        return None

    def truth(
        self, source: Any, annotations: Mapping[str, Any], image_ids: Sequence[int]
    ) -> list[dict]:
        """What results would be if all were right: rows with `image_id`, to be drawn."""
        wanted = set(image_ids)
        return [row for row in annotations["annotations"] if row["image_id"] in wanted]

    def texts(self, rows: Sequence[dict]) -> list[str]:
        """What is written below the picture of one image, of its results or its truth."""
        return []

    @staticmethod
    def blank(
        section: ml_collections.ConfigDict, count: int, size: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """What `draw.draw_objects` takes of `count` objects that the task says nothing about, in an
        image of this height and width; `section` is that of the task in a config."""
        return {}
