"""Small corpora in the exact layout of each dataset, made of the shipped sample's real images and texts."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


class Sample:
    """The first documents and captioned images of the sample corpus."""

    def __init__(self, archive):
        self._archive = archive
        with archive.open("interleaved.jsonl") as lines:
            self.documents = [json.loads(next(lines)) for _ in range(3)]
        with archive.open("pairs.jsonl") as lines:
            self.pairs = [json.loads(next(lines)) for _ in range(4)]

    def image(self, name):
        return self._archive.read(f"images/{name}")

    def urls(self):
        """The images of the pairs by an invented URL."""
        return {f"https://example.org/{pair['image']}?w=72": self.image(pair["image"]) for pair in self.pairs}

    def mmc4(self):
        """The documents with all fields that MMC4 has; images are renamed as MMC4 names them, flat."""
        rows = []
        for row in self.documents:
            images = [
                {
                    "image_name": flat(image["image_name"]),
                    "raw_url": f"http://example.org/{image['image_name']}",
                    "matched_text_index": image["matched_text_index"],
                    "matched_sim": 0.25 + number / 100,
                    "face_detections": None,
                }
                for number, image in enumerate(row["image_info"])
            ]
            matrix = [[0.1] * len(row["text_list"])] * len(images)
            rows.append(
                {
                    "text_list": row["text_list"],
                    "url": row["url"],
                    "image_info": images,
                    "similarity_matrix": matrix,
                    "could_have_url_duplicate": 0,
                }
            )
        return rows

    def mmc4_images(self):
        """Their images by flat name."""
        names = [image["image_name"] for row in self.documents for image in row["image_info"]]
        return {flat(name): self.image(name) for name in names}


def flat(name):
    return name.replace("/", "-")


class Maker:
    """Writes files of every kind below one folder."""

    def __init__(self, root):
        self.root = root

    def file(self, name, data):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def files(self, folder, contents):
        for name, data in contents.items():
            self.file(f"{folder}/{name}", data)
        return self.root / folder

    @staticmethod
    def lines(rows):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()

    def jsonl(self, name, rows):
        """Packed as the name says: plain, .gz or .zip."""
        data = self.lines(rows)
        if name.endswith(".gz"):
            return self.file(name, gzip.compress(data, mtime=0))
        return self.zip(name, {Path(name).stem: data}) if name.endswith(".zip") else self.file(name, data)

    def zip(self, name, contents):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in contents.items():
                archive.writestr(member, data)
        return self.file(name, buffer.getvalue())

    def tar(self, name, members, form=tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for member, data in members:
                entry = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
                entry.size = len(data) if entry.isreg() else 0
                archive.addfile(entry, io.BytesIO(data))
        return self.file(name, buffer.getvalue())

    def parquet(self, name, table, group=2):
        path = self.file(name, b"")
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(dict(table)), path, row_group_size=group)
        return path

    def arrow(self, name, table, stream=True):
        path = self.file(name, b"")
        with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        return path

    def img2dataset(self, folder, images, json_too=True):
        """One shard of img2dataset's output, images by URL; a last row of the side file failed to download."""
        members = []
        rows = []
        for number, (url, data) in enumerate(images.items()):
            row = side_row(number, url)
            rows.append(row)
            members += [(f"{row['key']}.jpg", data), (f"{row['key']}.txt", str(row["caption"]).encode())]
            members += [(f"{row['key']}.json", json.dumps(row).encode())] if json_too else []
        rows.append({**side_row(len(rows), "https://example.org/gone"), "status": "failed_to_download"})
        rows[-1]["error_message"] = "HTTP Error 404: Not Found"
        self.parquet(f"{folder}/00000.parquet", pa.Table.from_pylist(rows, SIDE_SCHEMA))
        return self.tar(f"{folder}/00000.tar", members).parent

    def img2dataset_files(self, folder, images, extension="jpg"):
        """The same as img2dataset writes it by default: folders of files, here of two images each."""
        numbered = list(enumerate(images.items()))
        for shard, first in enumerate(range(0, len(numbered), 2)):
            rows = []
            for number, (url, data) in numbered[first : first + 2]:
                row = side_row(number, url)
                rows.append(row)
                self.file(f"{folder}/{shard:05d}/{row['key']}.{extension}", data)
                self.file(f"{folder}/{shard:05d}/{row['key']}.txt", str(row["caption"]))
                self.file(f"{folder}/{shard:05d}/{row['key']}.json", json.dumps(row))
            gone = {**side_row(len(numbered) + shard, "https://example.org/gone"), "status": "failed_to_download"}
            self.parquet(f"{folder}/{shard:05d}.parquet", pa.Table.from_pylist([gone, *rows], SIDE_SCHEMA))
            self.file(f"{folder}/{shard:05d}_stats.json", "{}")
        return self.root / folder


SIDE_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("url", "caption", "key", "status", "error_message")]
    + [("width", pa.int64()), ("height", pa.int64()), ("exif", pa.string()), ("sha256", pa.string())]
)


def side_row(number, url):
    """The fields that img2dataset writes about an image."""
    facts = {"url": url, "caption": f"caption of {number}", "key": f"{number:09d}", "status": "success"}
    return {**facts, "error_message": None, "width": 72, "height": 72, "exif": "{}", "sha256": f"{number:064x}"}
