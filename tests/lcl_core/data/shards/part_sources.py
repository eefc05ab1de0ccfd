"""A corpus to be converted in parts, whose reading can be observed; and a conversion of it as a process of its own.

``python -m tests.lcl_core.data.shards.part_sources FOLDER PROCESSES`` writes FOLDER/made.
"""

import io
import os
import random
import sys
from functools import cache, partial
from itertools import islice
from pathlib import Path

from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage
from lcl_core.data.shards.convert import convert_parts
from lcl_core.parts import Section

LENGTHS = {"a": 90, "b": 0, "c": 41, "d": 1, "e": 68}
SHARD_BYTES, PART_ITEMS = 16_384, 8


@cache
def png(shade):
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "PNG")
    return buffer.getvalue()


def load(shade, observed, name):
    """An image's bytes; a line of the file tells that they were read."""
    if observed is not None:
        with observed.open("ab", buffering=0) as file:
            file.write(f"{name}\n".encode())
    return png(shade)


class NumberedSource:
    """Captioned images of several sections; of some the image, and some items as a whole, cannot be read.

    Args:
        lengths: items by section.
        observed: file that gets a line for each image that is read.
        deadly: name of the image that ends the process which reads it.
    """

    def __init__(self, lengths, observed=None, deadly=""):
        self._lengths, self._observed, self._deadly = lengths, observed, deadly

    def sections(self):
        return [Section(key) for key in self._lengths]

    def count_section(self, key):
        return self._lengths[key]

    def read_section(self, key, start=0):
        return islice((self._item(key, number) for number in range(self._lengths[key])), start, None)

    def records(self):
        return (item for key in self._lengths for item in self.read_section(key))

    def _item(self, key, number):
        if number % 11 == 10:
            return BadItem(key, number, "bad line", "at 7")
        name = f"{key}-{number}.png"
        read = partial(_refuse, name) if number % 17 == 16 else partial(load, number % 256, self._observed, name)
        if name == self._deadly:
            read = partial(os._exit, 9)
        body = CaptionedImage(name, (f"number {number} of {key}",) * (1 + number % 3), {"shade": str(number % 5)})
        return Record(name, body, (RecordImage(name, read),), split=("train", "val")[number % 7 == 6], source=key)


def _refuse(name):
    raise UserError("it is not there", code="file_missing", file=name)


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


class ShuffledRunner:
    """Several handlers in this process, whose tasks are complete in any order."""

    def __init__(self, make, processes=3, seed=0):
        self.processes = processes
        self._handlers = [make() for _ in range(processes)]
        self._tasks = []
        self._random = random.Random(seed)

    @property
    def idle(self):
        return self.processes - len(self._tasks)

    def submit(self, task):
        self._tasks.append(task)

    def wait(self, report, seconds=0.5):
        task = self._tasks.pop(self._random.randrange(len(self._tasks)))
        return [(task, self._random.choice(self._handlers)(task.arguments, report))]

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass


def convert_numbered(folder, processes):
    source = NumberedSource(LENGTHS, folder / "observed")
    return convert_parts(
        source, folder / "made", folder / "work", SHARD_BYTES, processes=processes, part_items=PART_ITEMS
    )


if __name__ == "__main__":
    convert_numbered(Path(sys.argv[1]), int(sys.argv[2]))
