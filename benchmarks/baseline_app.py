"""What anybody would write first: a FastAPI route that calls OpenCLIP's ``encode_image`` for each request.

``python -m benchmarks.baseline_app PORT MODEL``: with fresh weights, on 127.0.0.1.
"""

from __future__ import annotations

import base64
import io
import sys
from typing import Any

import open_clip
import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel


class EmbedRequest(BaseModel):
    image: str


def baseline_app(model_name: str) -> FastAPI:
    """One route for an image, one for being asked whether it is there."""
    made: Any = open_clip.create_model_and_transforms(model_name)
    model, _, preprocess = made
    model.eval()
    app = FastAPI()

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {}

    @app.post("/embed")
    def embed(body: EmbedRequest) -> dict[str, list[float]]:
        image = Image.open(io.BytesIO(base64.b64decode(body.image.partition(",")[2]))).convert("RGB")
        with torch.inference_mode():
            features = model.encode_image(preprocess(image)[None], normalize=True)
        return {"embedding": features[0].tolist()}

    return app


if __name__ == "__main__":
    uvicorn.run(baseline_app(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
