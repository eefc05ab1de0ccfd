"""Corpora made on the spot, and a tokenizer small enough to train in milliseconds."""

import io
import json
import zipfile

import pytest
from PIL import Image

from lcl_core.data import open_corpus, train_bpe

COLOURS = {"red.png": (255, 0, 0), "green.png": (0, 255, 0), "blue.png": (0, 0, 255), "white.png": (255, 255, 255)}


class Kit:
    """Makes corpora below one temporary folder."""

    def __init__(self, root):
        self.root = root

    @staticmethod
    def png(colour=(0, 0, 0), size=(8, 8)):
        buffer = io.BytesIO()
        Image.new("RGB", size, colour).save(buffer, "PNG")
        return buffer.getvalue()

    @staticmethod
    def image(name, sentence, similarity=0.5):
        return {"image_name": name, "matched_text_index": sentence, "matched_sim": similarity}

    @staticmethod
    def document(texts, *images):
        return {"text_list": list(texts), "image_info": list(images)}

    @staticmethod
    def pair(image, *captions, **more):
        return {"image": image, "captions": list(captions), **more}

    def write(self, name, data):
        """Bytes, text, or rows of JSON lines, as a file of the folder."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            file.write_bytes(data)
        else:
            text = data if isinstance(data, str) else "".join(json.dumps(row) + "\n" for row in data)
            file.write_text(text, encoding="utf-8")
        return file

    def corpus(self, documents=None, pairs=None):
        """A folder with these lines and the four colours as images."""
        for stem, rows in (("interleaved", documents), ("pairs", pairs)):
            if rows is not None:
                self.write(f"{stem}.jsonl", rows)
        for name, colour in COLOURS.items():
            self.write(f"images/{name}", self.png(colour))
        return open_corpus(self.root)

    def zip(self):
        """The folder as a zip beside it."""
        target = self.root.with_suffix(".zip")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(path for path in self.root.rglob("*") if path.is_file()):
                archive.write(file, file.relative_to(self.root).as_posix())
        return target


@pytest.fixture
def kit(tmp_path):
    return Kit(tmp_path / "corpus")


@pytest.fixture(scope="session")
def tokenizer():
    """Every byte and a few merges."""
    return train_bpe(["a red square", "a green square", "a blue square", "the square is red", "so is this"], 300)
