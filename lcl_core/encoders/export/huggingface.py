"""Hugging Face export: the weights as they are, and the code that transformers runs to compute with them.

sentence-transformers reads the same directory, through transformers.

The code is the product's own model. Its modules are copied side by side, with imports between them made relative, and
constants of other rooms written out.
"""

from __future__ import annotations

import ast
import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from lcl_core.common.files import write_json_atomically
from lcl_core.encoders.export.files import IMAGE_PROCESSOR, PROCESSOR, TOKENIZER_SETTINGS, write_inputs, write_use
from lcl_core.encoders.files import read_json_object
from lcl_core.encoders.pooling import LIMITS, MODULES
from lcl_core.encoders.registry import CONFIG, WEIGHTS
from lcl_core.specs.pretrain import TEXT_CONTEXT_LENGTH

_PORTABLE = "lcl_core.encoders.export.portable"
_ENTRIES = (f"{_PORTABLE}.encoder_model", f"{_PORTABLE}.processing_lcl")
_COPIED = (
    _PORTABLE,
    "lcl_core.model",
    "lcl_core.ops",
    "lcl_core.common.errors",
    "lcl_core.specs.vision",
)  # of other modules: constants alone
_MODEL = "encoder_model.LCLEncoderModel"
_AUTO_MODEL = {
    "AutoConfig": "modeling_lcl.LCLConfig",
    "AutoModel": _MODEL,
    "AutoModelForZeroShotImageClassification": _MODEL,
}
_AUTO_IMAGE_PROCESSOR = {"AutoImageProcessor": "processing_lcl.PortableImageProcessor"}
_AUTO_PROCESSOR = {"AutoProcessor": "processing_lcl.PortableProcessor"}
_AUTO_TOKENIZER = {"AutoTokenizer": ["processing_lcl.PortableTokenizer", None]}
_SENTENCE_MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
_SENTENCE_SETTINGS = {
    "module_output_name": "sentence_embedding",
    "modality_config": {
        kind: {"method": f"get_{kind}_features", "method_output_name": None} for kind in ("text", "image")
    },
}
_TEXT = """
A vision encoder and text encoder of Latent Compression Learning, in one space. Two ways to load it:

* with `lcl` installed, `AutoModel.from_pretrained(DIR)` after `import lcl_core.model`; no code from here runs;
* without it, as below: `trust_remote_code` runs the Python files that lie here to be read first, `encoder_model.py` and
  `processing_lcl.py` and what they import. They need torch, transformers (tested: 5.24 and 4.57), tokenizers,
  Pillow and, for texts that are not plain ASCII, ftfy.

`get_image_features` and `get_text_features` give vectors of length 1, `get_patch_features` the patch tokens.

* `dtype="float32"` loads the weights as `lcl` does. Without it weights in bf16 stay so, and norms and sums lose digits.
* Pipelines take it: `pipeline("zero-shot-image-classification", DIR, trust_remote_code=True)`, and
  `"image-feature-extraction"`; so does sentence-transformers (tested: 6.3), for images and texts:
  `SentenceTransformer(DIR, trust_remote_code=True)`.
* `AutoProcessor` and `AutoTokenizer` compute the same ids; both need `trust_remote_code`, since no tokenizer of
  transformers cleans texts as in training. `processor(text=…)` pads; with `tokenizer(…)` write `padding=True`.
* An image processor of transformers' own, for what runs no code from here, crops some images one pixel beside ours.
* Captions need `lcl`. An encoder whose `vision` in `config.json` begins with `timm:` needs timm as well.
"""
_RECIPE = """
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(DIR, dtype="float32", trust_remote_code=True)
processor = AutoProcessor.from_pretrained(DIR, trust_remote_code=True)
images = model.get_image_features(**processor(images=[image]))
texts = model.get_text_features(**processor(text=["a red bus", "a blue circle"]))
similarity = images @ texts.T
"""


def write(directory: Path, target: Path) -> None:
    """Weights, configuration, tokenizer, processor, code and a README. Still an encoder of ours for ``lcl``."""
    # transformers 4 would write the token embeddings over the head of a configuration that does not say this
    config = {**read_json_object(directory / CONFIG), "tie_word_embeddings": False, "auto_map": _AUTO_MODEL}
    write_json_atomically(target / CONFIG, config)
    write_inputs(directory, target)
    processor = read_json_object(directory / PROCESSOR)
    write_json_atomically(target / PROCESSOR, {**processor, "auto_map": _AUTO_PROCESSOR})
    images = read_json_object(target / IMAGE_PROCESSOR)
    write_json_atomically(target / IMAGE_PROCESSOR, {**images, "auto_map": _AUTO_IMAGE_PROCESSOR})
    # a tokenizer of transformers' own would leave out start, end and the cleaning of texts
    tokenizer = {"tokenizer_class": "PortableTokenizer", "auto_map": _AUTO_TOKENIZER}
    longest = min(TEXT_CONTEXT_LENGTH, config.get("context_length", TEXT_CONTEXT_LENGTH))
    write_json_atomically(target / TOKENIZER_SETTINGS, {**tokenizer, "model_max_length": longest})
    write_json_atomically(target / MODULES, _SENTENCE_MODULES)
    write_json_atomically(target / LIMITS, _SENTENCE_SETTINGS)
    shutil.copyfile(directory / WEIGHTS, target / WEIGHTS)
    for name, source in portable_sources().items():
        (target / name).write_text(source, encoding="utf-8")
    write_use(target, _TEXT, _RECIPE, "transformers")


def portable_sources() -> dict[str, str]:
    """Python files, by name, that run without ``lcl_core``: model and processor with every module that they import."""
    sources: dict[str, str] = {}
    queue = list(_ENTRIES)
    while queue:
        module = queue.pop()
        name = f"{module.rpartition('.')[2]}.py"
        if name not in sources:
            sources[name], imported = _make_relative(module)
            queue += imported
    for entry in ("modeling_lcl", "encoder_model"):  # those of ``auto_map``
        others = {name.removesuffix(".py") for name in sources} - {entry, "encoder_model", "processing_lcl"}
        # of a local directory, transformers 4 copies those modules alone that an entry imports itself
        imports = (f"from .{name} import __name__ as _{name}  # noqa: E402, F401\n" for name in sorted(others))
        sources[f"{entry}.py"] += "\n" + "".join(imports)
    return sources


def _make_relative(module: str) -> tuple[str, list[str]]:
    """A module's source with relative imports, and the modules to copy with it."""
    source = Path(str(getattr(find_spec(module), "origin", module))).read_text(encoding="utf-8")
    lines, imported = source.splitlines(), []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("lcl_core"):
            continue
        name = str(node.module)
        if name.startswith(_COPIED):
            imported.append(name)
            names = ", ".join(alias.name + (f" as {alias.asname}" if alias.asname else "") for alias in node.names)
            text = [f"from .{name.rpartition('.')[2]} import {names}"]
        else:
            values = {alias.asname or alias.name: getattr(import_module(name), alias.name) for alias in node.names}
            assert all(isinstance(value, int | float | str) for value in values.values()), f"{module} imports {name}"
            text = [f"{constant} = {value!r}" for constant, value in values.items()]
        indent = " " * node.col_offset
        end = node.end_lineno or node.lineno
        lines[node.lineno - 1 : end] = ["\n".join(indent + line for line in text)] + [""] * (end - node.lineno)
    return "\n".join(lines) + "\n", imported
