"""Parquet files of images, as on Hugging Face: a column of image files, as bytes or {bytes, path},
and perhaps one of labels. Images are streamed, a few rows at a time.

The image column is `image`, else the only one that the Hugging Face schema declares as an image,
else the only one whose first value begins like an image file. The label column is `label`, else the
only one that the schema declares as a label.

An image is named by its row, which is unique, and its stored path: `row-000000012/00012.png`. An
entry's place: [row group, row in it].
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dataprep.manifest import DatasetError
from dataprep.sources import labels
from dataprep.sources.entry import Entry, Note, Options, check_size

ROWS = 4096  # at a time, of columns other than the images
IMAGES = 8  # at a time
BUFFER = 2**20  # bytes read at a time from a column, instead of the column whole
STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*")  # of image files


def entries(path: Path, options: Options) -> Iterator[Entry | Note]:
    """All rows, with their labels if `options.labels`."""
    import pyarrow

    file = open_table(path)
    try:
        column = image_column(file, path, options.image_column)
        if column is None:
            raise DatasetError(
                f"{path} has no column of images, only {', '.join(file.schema_arrow.names)}: "
                "name one with --image-column, or leave the file out"
            )
        others = [c for c in file.schema_arrow.names if declared_type(file, c) == "Image"]
        if options.image_column is None and len(others) > 1:
            yield Note(
                f"tables hold images in the columns {', '.join(others)}: {column} is taken; "
                "--image-column chooses"
            )
        label = label_column(file, path, options.label_column) if options.labels else None
        yield from rows(file, column, label)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{path} is damaged: {error}; download it again") from None
    finally:
        file.close()


def rows(file, image: str, label: str | None) -> Iterator[Entry]:
    wanted = [f"{image}.path"] if f"{image}.path" in stored_columns(file) else []
    wanted += [label] if label else []
    row = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        first = row
        if not wanted:
            yield from (Entry(row_name(first + i, None), [group, i]) for i in range(count))
            row += count
            continue
        for batch in file.iter_batches(ROWS, [group], wanted, use_threads=False):
            values = batch.to_pydict()
            images = values.get(image, [None] * len(batch))
            found = values.get(label, [None] * len(batch))
            for image_, value in zip(images, found):
                name = row_name(row, (image_ or {}).get("path"))
                yield Entry(name, [group, row - first], labels.of_value(value))
                row += 1


def open_table(path: Path):
    """The pyarrow ParquetFile; DatasetError if it cannot be opened."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{path} cannot be opened as parquet: {error}") from None


def holds_images(path: Path, options: Options) -> bool:
    """Whether the table has a column of images; DatasetError as `image_column`."""
    file = open_table(path)
    try:
        return image_column(file, path, options.image_column) is not None
    finally:
        file.close()


def image_column(file, path: Path, wanted: str | None) -> str | None:
    """The column of images, or None; DatasetError if it is ambiguous."""
    there = set(stored_columns(file))
    found = [c for c in file.schema_arrow.names if f"{c}.bytes" in there or is_bytes(file, c)]
    if wanted is not None:
        if wanted not in found:
            raise DatasetError(
                f"{path} has no column {wanted!r} of bytes (--image-column); its columns: "
                f"{', '.join(file.schema_arrow.names)}"
            )
        return wanted
    if "image" in found:
        return "image"
    called = [c for c in found if declared_type(file, c) == "Image"]
    found = called or [c for c in found if starts_as_image(file, c)]
    if len(found) > 1:
        raise DatasetError(
            f"{path} holds images in the columns {', '.join(found)}: choose with --image-column"
        )
    return found[0] if found else None


def label_column(file, path: Path, wanted: str | None) -> str:
    """The column of labels; DatasetError if there is none."""
    names = file.schema_arrow.names
    called = [c for c in names if declared_type(file, c) == "ClassLabel"]
    if wanted is None and "label" not in names and len(called) == 1:
        return called[0]
    column = wanted or "label"
    if column not in names:
        raise DatasetError(
            f"{path} has no column {column!r}, only {', '.join(names)}: name that of the labels "
            "with --label-column, or use --labels none"
        )
    return column


def stored_columns(file) -> list[str]:
    """The stored columns; structs have one for each field: image.bytes, image.path."""
    return [file.schema.column(i).path for i in range(len(file.schema))]


def is_bytes(file, column: str) -> bool:
    import pyarrow

    kind = file.schema_arrow.field(column).type
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def bytes_column(file, column: str) -> str:
    """The stored column of the bytes."""
    return f"{column}.bytes" if f"{column}.bytes" in stored_columns(file) else column


def starts_as_image(file, column: str) -> bool:
    """Whether the first value begins like an image file."""
    data = bytes_column(file, column)
    for batch in file.iter_batches(1, columns=[data], use_threads=False):
        value = batch.column(0)[0].as_py()
        value = value["bytes"] if isinstance(value, dict) else value
        return isinstance(value, bytes) and value.startswith(STARTS)
    return False


def features(file) -> dict:
    """The columns as the Hugging Face schema declares them; empty without one."""
    stored = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        return dict(json.loads(stored)["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


def declared_type(file, column: str) -> str | None:
    feature = features(file).get(column)
    return feature.get("_type") if isinstance(feature, dict) else None


def row_name(row: int, path: str | None) -> str:
    last = (path or "").replace("\\", "/").rpartition("/")[2]
    return f"row-{row:09d}/{last}" if last not in ("", ".", "..") else f"row-{row:09d}"


def class_names(path: Path, wanted: str | None) -> list[str]:
    """The names of the classes in the Hugging Face schema; empty without one."""
    file = open_table(path)
    try:
        feature = features(file).get(label_column(file, path, wanted))
    finally:
        file.close()
    names = feature.get("names") if isinstance(feature, dict) else None
    return list(names) if isinstance(names, list) else []


class Archive:
    """Reads the images of a parquet file, fastest in the order of the rows."""

    def __init__(self, path: Path, wanted: str | None):
        self.file = open_table(path)
        self.column = bytes_column(self.file, image_column(self.file, path, wanted))
        self.group, self.next, self.rows = -1, 0, iter(())

    def read(self, entry: Entry) -> bytes:
        """The bytes of an image file; OSError or BadImageError if it cannot be read."""
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
            yield from column.field("bytes") if self.column.endswith(".bytes") else column

    def close(self) -> None:
        self.file.close()
