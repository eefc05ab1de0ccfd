"""Bounds of a request."""

MAX_BODY_BYTES = 64 << 20  # of a request, which the gateway bounds as well
BODY_SECONDS = 60.0  # in which a body arrives
MAX_INPUTS = 256  # texts and images of an inference request
MAX_TEXT_CHARACTERS = 20_000  # of one text
MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS = 16 << 20, 40_000_000  # of one encoded image
MAX_REQUEST_PIXELS = 200_000_000  # of all images of a request together
WRITING_SECONDS = 120.0  # after which captions and continuations that are not written end with an error
