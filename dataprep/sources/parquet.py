"""Parquet files as Hugging Face hosts image sets: a column `image`, of the bytes of image files or
of {bytes, path}, and maybe a column `label`. Images are streamed, a few rows at a time.

An image is named by its row, so that no two names are the same, and by its path where one is
stored: `row-000000012/00012.png`. An entry's place: [row group, row in it].
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dataprep.manifest import DatasetError
from dataprep.sources.entry import Entry, check_size

ROWS = 4096  # at a time, of the columns without images
IMAGES = 8  # at a time
BUFFER = 2**20  # bytes read at a time from a column, instead of the column whole


def entries(path: Path, labels: bool) -> Iterator[Entry]:
    """All rows, with their labels where labels are asked for."""
    import pyarrow

    file = opened(path)
    try:
        yield from rows(file, labels)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{path} is damaged: {error}; get it again") from None
    finally:
        file.close()


def rows(file, labels: bool) -> Iterator[Entry]:
    columns = column_names(file)
    wanted = [c for c in ("image.path", "label") if c in columns and (labels or c != "label")]
    row = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        first = row
        if not wanted:
            yield from (Entry(named(first + i, None), [group, i]) for i in range(count))
            row += count
            continue
        for batch in file.iter_batches(ROWS, [group], wanted, use_threads=False):
            values = batch.to_pydict()
            images = values.get("image", [None] * len(batch))
            found = values.get("label", [None] * len(batch))
            for image, label in zip(images, found):
                name = named(row, (image or {}).get("path"))
                yield Entry(name, [group, row - first], as_label(label))
                row += 1


def opened(path: Path):
    """The pyarrow ParquetFile; DatasetError where it has no column of images."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
        columns = column_names(file)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{path} cannot be opened as parquet: {error}") from None
    if not {"image", "image.bytes"} & set(columns):
        raise DatasetError(
            f"{path} has no column `image` of bytes, only {', '.join(columns)}: "
            "rename the one that holds the images"
        )
    return file


def column_names(file) -> list[str]:
    return [file.schema.column(i).path for i in range(len(file.schema))]


def named(row: int, path: str | None) -> str:
    last = (path or "").replace("\\", "/").rpartition("/")[2]
    return f"row-{row:09d}/{last}" if last not in ("", ".", "..") else f"row-{row:09d}"


def class_names(path: Path) -> list[str]:
    """The names of the labels that Hugging Face stores in the schema; empty where it does not."""
    file = opened(path)
    stored = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    file.close()
    try:
        return json.loads(stored)["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return []


def as_label(label) -> int | str | None:
    if label is None or label == -1:  # which is how a hidden label is written there
        return None
    return label if isinstance(label, int) else str(label)


class Archive:
    """Reads the images of a parquet file, fastest in the order of the rows."""

    def __init__(self, path: Path):
        self.file = opened(path)
        self.column = "image.bytes" if "image.bytes" in column_names(self.file) else "image"
        self.group, self.next, self.rows = -1, 0, iter(())

    def read(self, entry: Entry) -> bytes:
        """The bytes of an image file; OSError or BadImageError where it cannot be had."""
        import pyarrow

        group, row = entry.place
        if group != self.group or row < self.next:
            self.group, self.next, self.rows = group, 0, self.images(group)
        try:
            while self.next <= row:
                data = next(self.rows)
                self.next += 1
        except (pyarrow.ArrowException, StopIteration, OSError) as error:
            self.group = -1
            raise OSError(f"damaged in the archive: {error}") from None
        if not data.is_valid:
            raise OSError("no bytes are stored in this row")
        check_size(data.as_buffer().size)
        return data.as_py()

    def images(self, group: int):
        columns = [self.column]
        for batch in self.file.iter_batches(IMAGES, [group], columns, use_threads=False):
            column = batch.column(0)
            yield from column.field("bytes") if self.column == "image.bytes" else column

    def close(self) -> None:
        self.file.close()
