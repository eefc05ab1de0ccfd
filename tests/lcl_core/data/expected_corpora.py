"""Small real corpora in every layout, each with what its files say, told without any reader."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from tests.lcl_core.data.corpus_layouts import Maker

# a text; an image; a sentence and the image that belongs to it, on either side
Part = str | bytes | tuple[str, bytes]
Captioned = tuple[str, bytes, list[str]]  # split, image, captions


@dataclass
class Truth:
    """What a corpus says.

    Attributes:
        path: what to open; None: the folder where everything was written.
        quarantined: items that the corpus itself says are not there.
    """

    documents: list[list[Part]] = field(default_factory=list)
    pairs: list[Captioned] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    quarantined: int = 0


def documents_of(sample):
    """The sample's documents: each sentence with its image where it has one."""
    found = []
    for row in sample.documents:
        images = {image["matched_text_index"]: image["image_name"] for image in row["image_info"]}
        parts = enumerate(row["text_list"])
        found.append([(text, sample.image(images[n])) if n in images else text for n, text in parts])
    return found


def jpegs(sample):
    """The images of the pairs as JPEGs."""
    found = []
    for pair in sample.pairs:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(sample.image(pair["image"]))).convert("RGB").save(buffer, "JPEG", quality=95)
        found.append(buffer.getvalue())
    return found


def native_files(sample):
    names = [image["image_name"] for row in sample.documents for image in row["image_info"]]
    names += [pair["image"] for pair in sample.pairs]
    lines = {"interleaved.jsonl": Maker.lines(sample.documents), "pairs.jsonl": Maker.lines(sample.pairs)}
    return lines | {f"images/{name}": sample.image(name) for name in names}


def native_truth(sample, path):
    pairs = [(pair["split"], sample.image(pair["image"]), pair["captions"]) for pair in sample.pairs]
    return Truth(documents_of(sample), pairs, path=path)


def native_sequences(make, sample):
    """Documents whose texts and images stand where they say."""
    truth, files, rows = alternating(sample), {}, []
    for number, parts in enumerate(truth):
        segments = []
        for place, part in enumerate(parts):
            name = f"{number}/{place}.webp"
            segments.append({"image": name} if isinstance(part, bytes) else {"text": str(part)})
            files |= {f"images/{name}": part} if isinstance(part, bytes) else {}
        rows.append({"text_list": [], "image_info": [], "segments": segments})
    make.files("native", files | {"interleaved.jsonl": Maker.lines(rows)})
    return Truth(truth, path=make.root / "native")


def native_folder(make, sample):
    return native_truth(sample, make.files("native", native_files(sample)))


def native_zip(make, sample):
    return native_truth(sample, make.zip("native.zip", native_files(sample)))


def mmc4(make, sample):
    """Images in a folder; one is matched below the threshold."""
    rows, truth = sample.mmc4(), documents_of(sample)
    rows[0]["image_info"][-1]["matched_sim"] = 0.1
    last = rows[0]["image_info"][-1]["matched_text_index"]
    truth[0][last] = rows[0]["text_list"][last]
    make.jsonl("docs_shard_2_v2.jsonl.zip", rows[:2])
    make.jsonl("docs_shard_10_v2.jsonl.zip", rows[2:])
    make.files("images", sample.mmc4_images())
    return Truth(truth)


def mmc4_fewer_faces(make, sample):
    """Images as img2dataset left them, found by address."""
    rows, images = sample.mmc4(), sample.mmc4_images()
    found = {image["raw_url"]: images[image["image_name"]] for row in rows for image in row["image_info"]}
    make.jsonl("docs_no_face_shard_0_v2.jsonl.zip", rows)
    return Truth(documents_of(sample), options={"images": make.img2dataset("pictures", found)})


def alternating(sample):
    """The sample's documents as OBELICS has them: each image before its text, or a text alone."""
    found = []
    for document in documents_of(sample):
        parts = []
        for part in document:
            parts += [part[1], part[0]] if isinstance(part, tuple) else [part]
        found.append(parts)
    return found


def obelics_parquet(make, sample):
    """Images by address, as img2dataset left them."""
    truth, urls, rows = alternating(sample), {}, []
    for number, parts in enumerate(truth):
        images = []
        for place, part in enumerate(parts):
            url = f"https://example.org/{number}/{place}.webp" if isinstance(part, bytes) else None
            images.append(url)
            if url is not None and isinstance(part, bytes):
                urls[url] = part
        about = json.dumps([url and {"src": url} for url in images])
        texts = [part if isinstance(part, str) else None for part in parts]
        rows.append({"images": images, "texts": texts, "metadata": about, "general_metadata": '{"url": "u"}'})
    make.parquet("data/train-00000-of-00001.parquet", pa.Table.from_pylist(rows))
    return Truth(truth, options={"images": make.img2dataset("pictures", urls)})


def obelics_arrow(make, sample):
    """Images embedded in the rows."""
    truth = alternating(sample)
    kind = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    schema = pa.schema([("images", kind), ("texts", pa.list_(pa.string())), ("metadata", pa.string())])
    rows = [
        {
            "images": [{"bytes": part, "path": None} if isinstance(part, bytes) else None for part in parts],
            "texts": [part if isinstance(part, str) else None for part in parts],
        }
        for parts in truth
    ]
    make.arrow("data-00000-of-00001.arrow", pa.Table.from_pylist(rows, schema))
    return Truth(truth)


def conversations(make, sample):
    """LLaVA's JSON: each image where a turn has its mark."""
    truth, rows = alternating(sample), []
    for number, parts in enumerate(truth):
        images = {f"{number}/{place}.webp": part for place, part in enumerate(parts) if isinstance(part, bytes)}
        make.files("images", images)
        turns = [{"from": "human", "value": part if isinstance(part, str) else "<image>"} for part in parts]
        rows.append({"image": list(images), "conversations": turns})
    make.file("llava.json", json.dumps(rows))
    return Truth(truth)


def webdataset(make, sample):
    """Its side file has a further row, whose download failed."""
    make.img2dataset("cc3m", sample.urls())
    pairs = [("train", data, [f"caption of {n}"]) for n, data in enumerate(sample.urls().values())]
    return Truth(pairs=pairs, path=make.root / "cc3m", quarantined=1)


def pair_folders(make, sample):
    """img2dataset's default; the side file of each of the two folders has a row whose download failed."""
    place = make.img2dataset_files("cc3m", sample.urls(), "webp")
    pairs = [("train", data, [f"caption of {n}"]) for n, data in enumerate(sample.urls().values())]
    return Truth(pairs=pairs, path=place, quarantined=2)


def clip_benchmark(make, sample):
    """A retrieval dataset: a folder for each split, five captions an image."""
    members = []
    truth = Truth(path=make.root / "wds_flickr8k")
    for n, data in enumerate(sample.urls().values()):
        captions = [f"{k} of {n}." for k in range(5)]
        members += [(f"s{n:07d}.webp", data), (f"s{n:07d}.txt", "\n".join(captions).encode())]
        truth.pairs.append(("train", data, captions))
    make.tar("wds_flickr8k/train/0.tar", members)
    make.file("wds_flickr8k/train/nshards.txt", "1\n")
    make.file("wds_flickr8k/dataset_type.txt", "retrieval\n")
    return truth


def coco(make, sample):
    images, truth = jpegs(sample), Truth()
    for split, numbers in (("train", (0, 1)), ("val", (2, 3))):
        entries = [{"id": 70 + n, "file_name": f"COCO_{split}2014_{n:012d}.jpg"} for n in numbers]
        captions = [{"image_id": 70 + n, "id": 9 * n + k, "caption": f"{k} of {n}."} for k in range(5) for n in numbers]
        file = {"info": {}, "licenses": [], "images": entries, "annotations": captions}
        make.file(f"annotations/captions_{split}2014.json", json.dumps(file))
        for n, entry in zip(numbers, entries, strict=True):
            make.file(f"{split}2014/{entry['file_name']}", images[n])
            truth.pairs.append((split, images[n], [f"{k} of {n}." for k in range(5)]))
    return truth


def karpathy(make, sample):
    truth, entries = Truth(), []
    for n, (split, data) in enumerate(zip(("train", "restval", "val", "test"), jpegs(sample), strict=True)):
        sentences = [{"raw": f"{k} of {n}.", "tokens": ["of"], "imgid": n, "sentid": 9 * n + k} for k in range(5)]
        entry = {"filename": f"{n}.jpg", "imgid": n, "split": split, "sentences": sentences}
        entries.append(entry | {"filepath": "val2014", "cocoid": n})
        make.file(f"val2014/{n}.jpg", data)
        truth.pairs.append((split, data, [f"{k} of {n}." for k in range(5)]))
    make.file("dataset_coco.json", json.dumps({"images": entries, "dataset": "coco"}))
    return truth


def nocaps(make, sample):
    domains = ("in-domain", "near-domain", "out-domain", "in-domain")
    entries = [{"id": n, "file_name": f"{n:016x}.jpg", "domain": domain} for n, domain in enumerate(domains)]
    captions = [{"image_id": n, "id": 10 * n + k, "caption": f"{k} of {n}."} for n in range(4) for k in range(10)]
    make.file("nocaps_val_4500_captions.json", json.dumps({"images": entries, "annotations": captions}))
    truth = Truth()
    for n, data in enumerate(jpegs(sample)):
        make.file(f"val/{n:016x}.jpg", data)
        truth.pairs.append(("val", data, [f"{k} of {n}." for k in range(10)]))
    return truth


def imagefolder(make, sample):
    """ImageNet: an image without captions is called by its class."""
    classes = {"n01440764": "tench, Tinca tinca", "n02012849": "crane"}
    make.file("LOC_synset_mapping.txt", "".join(f"{wnid} {words}\n" for wnid, words in classes.items()))
    truth = Truth()
    for n, data in enumerate(jpegs(sample)):
        split, wnid = ("train", "val")[n // 2], list(classes)[n % 2]
        make.file(f"{split}/{wnid}/{wnid}_{n}.JPEG", data)
        truth.pairs.append((split, data, [classes[wnid]]))
    return truth


def table_csv(make, sample):
    """The last row has a label only."""
    rows = ['0.webp,"One, two",ant,train', "1.webp,Three,ant,train", "2.webp,Four,ant,val", "3.webp,,a bee,val"]
    make.file("t.csv", "image,caption,label,split\n" + "\n".join(rows) + "\n")
    texts = ("One, two", "Three", "Four", "a bee")
    truth = Truth()
    for n, (pair, text) in enumerate(zip(sample.pairs, texts, strict=True)):
        make.file(f"images/{n}.webp", sample.image(pair["image"]))
        truth.pairs.append((("train", "val")[n // 2], sample.image(pair["image"]), [text]))
    return truth


def table_parquet(make, sample):
    """Hugging Face's form: images in the rows, a file for each split."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    truth = Truth()
    for split, name, pairs in (("train", "train", sample.pairs[:3]), ("val", "validation", sample.pairs[3:])):
        images = [sample.image(pair["image"]) for pair in pairs]
        captions = [pair["captions"] for pair in pairs]
        cells = pa.array([{"bytes": data, "path": f"{n}.webp"} for n, data in enumerate(images)], kind)
        make.parquet(f"data/{name}-00000-of-00001.parquet", pa.table({"image": cells, "caption": captions}))
        truth.pairs += [(split, data, texts) for data, texts in zip(images, captions, strict=True)]
    return truth


def page_of(make, sample):
    images = [sample.image(pair["image"]) for pair in sample.pairs[:2]]
    make.files("img", {f"{n}.webp": data for n, data in enumerate(images)})
    return images


def html(make, sample):
    first, second = page_of(make, sample)
    figure = "<figure><img src='img/0.webp' alt='an ant'><figcaption>The ant.</figcaption></figure>"
    text = f"<h1>Ants</h1><p>An ant walks.</p>{figure}<p>Then another.</p><img src='img/1.webp' alt='a bee'><p>End.</p>"
    make.file("ants.html", f"<title>Ants</title><nav><a href='x.html'>Home</a></nav><main>{text}</main>")
    return Truth([["Ants", "An ant walks.", first, "an ant", "The ant.", "Then another.", second, "a bee", "End."]])


def markdown(make, sample):
    first, second = page_of(make, sample)
    text = "# Ants\n\nAn ant walks.\n\n![an ant](img/0.webp)\n\nThen another.\n\n![a bee](img/1.webp)\n\nEnd.\n"
    make.file("ants.md", text)
    return Truth([["Ants", "An ant walks.", first, "an ant", "Then another.", second, "a bee", "End."]])


# the format by which each is recognised, and what writes it
LAYOUTS = {
    "MMC4": ("mmc4", mmc4),
    "MMC4 fewer faces": ("mmc4", mmc4_fewer_faces),
    "OBELICS parquet": ("obelics", obelics_parquet),
    "OBELICS arrow": ("obelics", obelics_arrow),
    "LLaVA": ("conversations", conversations),
    "WebDataset": ("webdataset", webdataset),
    "CLIP benchmark": ("webdataset", clip_benchmark),
    "pairs in folders": ("pair_folders", pair_folders),
    "COCO": ("coco", coco),
    "Karpathy": ("karpathy", karpathy),
    "NoCaps": ("nocaps", nocaps),
    "ImageNet": ("imagefolder", imagefolder),
    "CSV": ("table", table_csv),
    "Parquet table": ("table", table_parquet),
    "HTML": ("web", html),
    "Markdown": ("markdown", markdown),
    "native folder": ("native", native_folder),
    "native zip": ("native", native_zip),
    "native sequences": ("native", native_sequences),
}
