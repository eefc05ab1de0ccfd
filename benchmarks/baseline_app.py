"""What anybody would write first, on 127.0.0.1.

``python -m benchmarks.baseline_app PORT embed MODEL``: a FastAPI route that calls OpenCLIP's ``encode_image`` with
fresh weights for each request. ``… PORT search ENCODER VECTORS``: one that compares a text, through an encoder that
was exported for transformers, with all of a numpy array.
"""

from __future__ import annotations

import base64
import io
import sys
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from prometheus_client import make_asgi_app
from pydantic import BaseModel

app = FastAPI()
app.mount("/metrics", make_asgi_app())


class EmbedRequest(BaseModel):
    image: str


class SearchRequest(BaseModel):
    text: str
    k: int = 10


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {}


def add_embed(model_name: str) -> None:
    import open_clip

    made: Any = open_clip.create_model_and_transforms(model_name)
    model, _, preprocess = made
    model.eval()

    @app.post("/embed")
    def embed(body: EmbedRequest) -> dict[str, list[float]]:
        image = Image.open(io.BytesIO(base64.b64decode(body.image.partition(",")[2]))).convert("RGB")
        with torch.inference_mode():
            features = model.encode_image(preprocess(image)[None], normalize=True)
        return {"embedding": features[0].tolist()}


def add_search(encoder: str, vectors: str) -> None:
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(encoder, dtype="float32", trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(encoder, trust_remote_code=True)
    index = np.load(vectors)

    @app.post("/search")
    def search(body: SearchRequest) -> list[dict[str, Any]]:
        with torch.inference_mode():
            query = model.get_text_features(**processor(text=body.text))[0].numpy()
        scores = index @ (query / np.linalg.norm(query))
        return [{"id": f"{row}.png", "score": float(scores[row])} for row in np.argsort(-scores)[: body.k]]


if __name__ == "__main__":
    _, port, route, *parts = sys.argv
    add_embed(*parts) if route == "embed" else add_search(*parts)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
