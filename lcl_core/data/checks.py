"""What a line of a corpus must look like. Each check returns what is wrong, or None."""

from __future__ import annotations

from typing import Any


def check_document(document: dict[str, Any]) -> str | None:
    """An MMC4 document: ``text_list`` and ``image_info`` with name, sentence and similarity of each image."""
    texts = document.get("text_list")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return "text_list must be a list of strings"
    images = document.get("image_info")
    if not isinstance(images, list):
        return "image_info must be a list of objects"
    for number, image in enumerate(images):
        problem = _check_image(image)
        if problem is not None:
            return f"image_info[{number}]{problem}"
    return None


def _check_image(image: Any) -> str | None:
    if not isinstance(image, dict):
        return " must be an object"
    if not isinstance(image.get("image_name"), str) or not image["image_name"]:
        return ".image_name must be a file name"
    if not _is_number(image.get("matched_text_index"), int):
        return ".matched_text_index must be an integer"
    if not _is_number(image.get("matched_sim"), (int, float)):
        return ".matched_sim must be a number"
    return None


def check_pair(pair: dict[str, Any]) -> str | None:
    """A captioned image: ``image``, ``captions``, and optionally ``labels``, ``split``, ``source``."""
    if not isinstance(pair.get("image"), str) or not pair["image"]:
        return "image must be a file name"
    captions = pair.get("captions")
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        return "captions must be a list of strings"
    labels = pair.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        return "labels must be an object whose values are strings"
    for key in ("split", "source"):
        if not isinstance(pair.get(key, ""), str):
            return f"{key} must be a string"
    return None


def _is_number(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
