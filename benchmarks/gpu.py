"""A check-up of one GPU: numerics, attention, resume, compiled blocks, speed, serving.

Each part computes on one device, in a process of its own, and returns figures with a verdict. The exit status is 0 if
every part passed. At most eight minutes on a GPU; ``--device cpu --quick`` runs the same code with tiny models.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.documents import made_up_documents, to_batches
from benchmarks.train import DEFAULT_CONFIG, measure
from lcl_core import __version__
from lcl_core.common.device import peak_memory_gib
from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.common.run_dir import RunDir
from lcl_core.data import SAMPLE_CORPUS
from lcl_core.encoders.original_checkpoint import read_official_config
from lcl_core.model import LCLConfig, PackedBatch
from lcl_core.objectives import OBJECTIVES, build_objective
from lcl_core.objectives.lcl import Lcl
from lcl_core.ops import attention
from lcl_core.ops.attention import BidirectionalLayout, CausalLayout, VarlenLayout
from lcl_core.specs.pretrain import ObjectiveSpec
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.metrics import peak_flops
from lcl_core.train.optimizer import build_optimizer
from lcl_core.train.train_step import TrainingStep

LOSS_ERROR, COSINE = 1e-2, 0.999  # of bf16 against fp32 on the CPU
_ATTENTION_ERROR = 2e-2  # relative; rounding to bf16 gives less than a hundredth
_RESUME_ERROR = 1e-2  # of a GPU, whose sums have no fixed order; a CPU gives the same bits
_LENGTHS = (130, 7, 64, 1, 300)
HEAD_WIDTHS = (32, 64, 96)
SMALL = LCLConfig(
    image_size=32, patch_size=8, vision_width=64, vision_layers=2, vision_head_width=32, text_width=64, text_layers=2,
    text_heads=2, context_length=2048, vocab_size=1000,
    sot_token_id=995, eot_token_id=996, img_token_id=997, soi_token_id=998, eoi_token_id=999,
)  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "ViT-B/32": {},
    "ViT-B/16": {"patch_size": 16},
    "ViT-L/14": {"patch_size": 14, "vision_width": 1024, "vision_layers": 24},
}
_JOB: dict[str, Any] = {
    "model": {
        **{"image_size": 32, "vision_width": 32, "vision_layers": 1, "vision_head_width": 16},
        **{"text_width": 32, "text_layers": 1, "text_heads": 2},
    },
    "tokenizer": {"vocab_size": 400},
    "data": {"sources": [{"view": "interleaved"}, {"view": "pairs"}], "piece_images": 2},
    "optimizer": {"warmup_steps": 1, "schedule": "constant"},
    "log_every": 2,
    "checkpoint_every": 1000,
}


@dataclass(frozen=True)
class CheckUp:
    """What is checked.

    Attributes:
        device: of the checks.
        quick: tiny models, few repeats, and compiled blocks run as they stand.
        folder: for files, of this part alone.
    """

    device: torch.device
    quick: bool
    folder: Path


def check_objectives(up: CheckUp) -> dict[str, Any]:
    """Losses and gradients of a step of each objective, in bf16 on the device against fp32 on the CPU."""
    rows: dict[str, Any] = {}
    for name in OBJECTIVES:
        exact_losses, exact = _losses_and_gradient(name, torch.device("cpu"), "fp32")
        losses, found = _losses_and_gradient(name, up.device, "bf16")
        error = max(abs(losses[each] - loss) / max(abs(loss), 1e-6) for each, loss in exact_losses.items())
        cosine = float(torch.nn.functional.cosine_similarity(found, exact, dim=0))
        passed = error <= LOSS_ERROR and cosine >= COSINE
        rows[name] = {"loss_error": error, "gradient_cosine": cosine, "passed": passed}
    return {"objectives": rows, "passed": all(row["passed"] for row in rows.values())}


def _losses_and_gradient(name: str, device: torch.device, precision: Any) -> tuple[dict[str, float], Tensor]:
    """Losses by name, and all gradients as one vector, fp64 on the CPU."""
    draw = torch.Generator().manual_seed(0)
    image = [SMALL.soi_token_id, *[SMALL.img_token_id] * SMALL.num_image_tokens, SMALL.eoi_token_id]
    texts = [torch.randint(1, 990, (12,), generator=draw).tolist() for _ in range(16)]
    rows = [torch.tensor([SMALL.sot_token_id, *text, *image]) for text in texts[:8]]
    rows += [torch.tensor([*image, *text, SMALL.eot_token_id]) for text in texts[8:]]
    pixels = torch.randn(16, 3, SMALL.image_size, SMALL.image_size, generator=draw)
    objective = build_objective(ObjectiveSpec.model_validate({"name": name}), SMALL)
    batch = objective.collate(rows, pixels, SMALL, keys=list(range(16)))
    model = build_model(SMALL, seed=0).train().to(device)
    step = TrainingStep(model, objective.to(device), RankGroup(), precision)
    report = step(build_optimizer(step.trained, lr=0.0), [batch.to(device)])
    gradients = [p.grad.detach().double().cpu().flatten() for p in step.trained.parameters() if p.grad is not None]
    return {each: float(loss) for each, loss in report.losses.items()}, torch.cat(gradients)


def check_attention(up: CheckUp) -> dict[str, Any]:
    """Packed attention in both masks, a document empty: equal to each document alone, to the bit, and near to fp32."""
    dtype = torch.bfloat16 if up.device.type == "cuda" else torch.float32
    rows = [_attention_row(up.device, dtype, width, kind) for width in HEAD_WIDTHS for kind in _LAYOUTS]
    return {"attention": rows, "passed": all(row["passed"] for row in rows)}


_LAYOUTS: tuple[type[VarlenLayout], ...] = (CausalLayout, BidirectionalLayout)


def _attention_row(device: torch.device, dtype: torch.dtype, width: int, kind: type[VarlenLayout]) -> dict[str, Any]:
    heads, total = 4, sum(_LENGTHS)
    draw = torch.Generator().manual_seed(0)
    exact = torch.randn(total, 3 * heads * width, generator=draw).to(dtype)
    qkv = exact.to(device).requires_grad_()
    layout = kind.from_lengths(list(_LENGTHS))
    # an empty document behind the first, as a full row of padded texts has it
    starts = torch.cat((layout.cu_seqlens[:2], layout.cu_seqlens[1:]))
    packed = attention.attend(qkv, heads, dataclasses.replace(layout, cu_seqlens=starts).to(device), 0)
    alone = [
        attention.attend(part, heads, kind.from_lengths([len(part)]).to(device), 0) for part in qkv.split(_LENGTHS)
    ]
    weight = torch.randn(packed.shape, generator=draw)
    reference = exact.float().requires_grad_()
    expected = attention.attend(reference, heads, layout, 0)
    (found,) = torch.autograd.grad((packed.float() * weight.to(device)).sum(), qkv)
    (gradient,) = torch.autograd.grad((expected * weight).sum(), reference)
    errors = [_relative_error(packed, expected), _relative_error(found, gradient)]
    equal = torch.equal(packed, torch.cat(alone))
    return {
        "mask": "causal" if kind.causal else "full",
        "head_width": width,
        "kernel": _kernel_name(qkv, heads),
        "equal_alone_and_packed": equal,
        "output_error": errors[0],
        "gradient_error": errors[1],
        "passed": equal and max(errors) <= _ATTENTION_ERROR,
    }


def _kernel_name(qkv: Tensor, heads: int) -> str:
    if attention.varlen_kernel_supports(qkv, heads):
        return "variable-length"
    return "blockwise" if qkv.device.type == "cpu" else "scaled_dot_product_attention"


def _relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double().cpu(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def check_resume(up: CheckUp) -> dict[str, Any]:
    """The last metric line of a run, and of one that was ended half way and continued from its checkpoint."""
    steps = 4 if up.quick else 40
    whole = _run_job(up, "whole", steps)[-1]
    _run_job(up, "halves", steps // 2)
    resumed = _run_job(up, "halves", steps)[-1]
    names = [name for name in whole if name.endswith("loss") or name == "grad_norm"]
    error = max(abs(resumed[name] - whole[name]) / max(abs(whole[name]), 1e-6) for name in names)
    passed = bool(names) and resumed["step"] == whole["step"] == steps and error <= _RESUME_ERROR
    return {"steps": steps, "compared": names, "error": error, "passed": passed}


def _run_job(up: CheckUp, name: str, steps: int) -> list[dict[str, Any]]:
    """Metric lines of a run by ``python -m lcl_core.train`` on the sample corpus. Raises: RuntimeError with its log."""
    run_dir = RunDir(up.folder / name)
    run_dir.path.mkdir(parents=True, exist_ok=True)
    spec = {**_JOB, "steps": steps, "batch": {"tokens": 512, "images": 16}}
    if not up.quick:  # the product's default model and a batch that takes a GPU as long as loaders take
        spec |= {"model": {"image_size": 224, "context_length": 1024}, "batch": {"tokens": 16_384, "images": 256}}
    run_dir.prepare({"run_id": name, "kind": "pretrain", "spec": spec, "datasets": {"sample": str(SAMPLE_CORPUS)}})
    command = [sys.executable, "-m", "lcl_core.train", str(run_dir.path)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if up.device.type == "cpu" else {}
    done = subprocess.run(command, env=os.environ | hidden, capture_output=True, text=True, check=False)
    if done.returncode:
        error = run_dir.error_file.read_text() if run_dir.error_file.exists() else done.stderr[-2000:]
        raise RuntimeError(f"the run ended with status {done.returncode}: {error}")
    lines = [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]
    return [line for line in lines if line["step"]]


def check_blocks(up: CheckUp) -> dict[str, Any]:
    """Seconds and losses of a step with blocks compiled, and activations recomputed, or not."""
    config = SMALL if up.quick else _official_config({})
    batches = to_batches(made_up_documents(config.sot_token_id, 4 if up.quick else 32), config, 4 if up.quick else 16)
    if up.quick:  # what a compiled block computes, without the minutes of a compiler
        torch.compiler.set_stance("force_eager")
    rows: list[dict[str, Any]] = []
    for compiled in (False, True):
        for checkpointing in (False, True):
            row = {
                "compiled": compiled,
                "checkpointing": checkpointing,
                **_step_figures(up, config, batches, compiled, checkpointing),
            }
            error = max(abs(row["losses"][name] / loss - 1) for name, loss in (rows or [row])[0]["losses"].items())
            rows.append({**row, "loss_error": error, "passed": error <= LOSS_ERROR})
    return {"blocks": rows, "passed": all(row["passed"] for row in rows)}


def _step_figures(
    up: CheckUp, config: LCLConfig, batches: Sequence[PackedBatch], compiled: bool, checkpointing: bool
) -> dict[str, Any]:
    model = build_model(config, seed=0).train().to(up.device)
    model.configure_blocks(compiled=compiled, checkpointing=checkpointing)
    step = TrainingStep(model, Lcl.from_config(config), RankGroup(), "bf16")
    optimizer = build_optimizer(model, lr=0.0)
    moved = [batch.to(up.device) for batch in batches]
    if up.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(up.device)
    reports = [step(optimizer, [batch]) for batch in moved]  # every shape is compiled here
    losses = {name: float(loss) for name, loss in reports[0].losses.items()}
    seconds = []
    for _ in range(1 if up.quick else 5):
        start = time.perf_counter()
        report = step(optimizer, [moved[0]])
        float(report.norm)  # waits for the device
        seconds.append(time.perf_counter() - start)
    return {"losses": losses, "seconds": min(seconds), "peak_gib": peak_memory_gib()}


def check_speed(up: CheckUp) -> dict[str, Any]:
    """Images a second and MFU of a training step; the peak is this device's own matrix product, measured here."""
    peak = peak_flops(torch.bfloat16, up.device, seconds=0.2 if up.quick else 2.0)
    models = {"tiny": SMALL} if up.quick else {name: _official_config(sizes) for name, sizes in MODELS.items()}
    rows = {name: _speed_row(up, config, peak) for name, config in models.items()}
    return {"peak_tflops": peak / 1e12, "models": rows, "passed": all("seconds" in row for row in rows.values())}


def _official_config(sizes: dict[str, Any]) -> LCLConfig:
    config = read_official_config(DEFAULT_CONFIG)
    return LCLConfig.from_dict({**config.to_dict(), **sizes})


def _speed_row(up: CheckUp, config: LCLConfig, peak: float) -> dict[str, Any]:
    """Figures of the largest batch, of 64 documents or a half, a quarter … of them, that fits into memory."""
    documents = 2 if up.quick else 64
    while documents:
        batches = to_batches(made_up_documents(config.sot_token_id, 2 * documents), config, documents)
        try:
            times, _ = measure(config, batches, 2 if up.quick else 6, "bf16", up.device)
        except torch.OutOfMemoryError:
            documents //= 2
            torch.cuda.empty_cache()
            continue
        seconds = min(times)
        images = sum(len(batch.pixel_values) for batch in batches) / len(batches)
        flops = sum(Lcl.from_config(config).flops(config, batch) for batch in batches) / len(batches)
        figures = {"seconds": seconds, "images_per_s": images / seconds, "mfu": flops / seconds / peak}
        return {"documents": documents, **figures, "peak_gib": peak_memory_gib()}
    return {"documents": 0}


def check_serving(up: CheckUp) -> dict[str, Any]:
    """Embeddings of images and texts a second through the service's engine, preparation of images included."""
    from benchmarks.encoder import TINY, VIT_B_32, write_encoder
    from lcl_core.encoders.engine import EncoderEngine

    write_encoder(up.folder / "encoder", TINY if up.quick else VIT_B_32)
    engine = EncoderEngine(up.folder / "encoder", up.device.type, precision="auto")
    count = 8 if up.quick else 1024
    images = [Image.radial_gradient("L").convert("RGB") for _ in range(count)]
    pixels = engine.preprocess(images[:256])
    rates = {
        "images_per_s": _rate(lambda: engine.embed_images(images), count, up.quick),
        "prepared_images_per_s": _rate(lambda: engine.embed_pixels(pixels), len(pixels), up.quick),
        "texts_per_s": _rate(lambda: engine.embed_texts([f"{i} red fishes" for i in range(count)]), count, up.quick),
    }
    return {**rates, "passed": all(math.isfinite(rate) and rate > 0 for rate in rates.values())}


def _rate(call: Callable[[], Any], items: int, quick: bool) -> float:
    call()
    start, calls = time.perf_counter(), 0
    while calls == 0 or (not quick and time.perf_counter() - start < 3):
        call()
        calls += 1
    return calls * items / (time.perf_counter() - start)


PARTS: dict[str, Callable[[CheckUp], dict[str, Any]]] = {
    "objectives": check_objectives,
    "attention": check_attention,
    "resume": check_resume,
    "blocks": check_blocks,
    "speed": check_speed,
    "serving": check_serving,
}


_BUDGET = 480.0  # seconds of all parts together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny models: whether it runs, not how fast")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=_BUDGET, help="after which parts that have not ended fail")


def main(options: argparse.Namespace) -> int:
    """Run the parts, each in a process of its own. Returns: the exit status. Raises: UserError without a GPU."""
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before CUDA is asked: the runs of some parts choose it by themselves
    elif torch.cuda.device_count() == 0:  # asks the driver's library; CUDA itself starts in the parts
        raise UserError("there is no GPU; --device cpu --quick shows what would run", field="device")
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory(prefix="lcl-bench-gpu-") as folder:
        parts = {name: _run(name, options, Path(folder) / name, end - time.monotonic()) for name in options.parts}
    report = {"machine": _machine(options), "parts": parts, "passed": all(part["passed"] for part in parts.values())}
    print(json.dumps(report, indent=1))
    return 0 if report["passed"] else 1


def _run(name: str, options: argparse.Namespace, folder: Path, seconds: float) -> dict[str, Any]:
    """One part, forked from this process, which imported the libraries and never started CUDA."""
    folder.mkdir()
    result = folder / "result.json"
    up = CheckUp(torch.device(options.device), options.quick, folder)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(name, up, result))
    process.start()
    process.join(max(seconds, 0.0))
    if process.is_alive() and process.pid is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the runs that it has started too
        process.kill()
        process.join()
        return {"passed": False, "error": f"it had not ended after the {options.seconds:g} seconds of all parts"}
    if not result.exists():
        return {"passed": False, "error": f"its process ended with status {process.exitcode}"}
    return dict(json.loads(result.read_text(encoding="utf-8")))


def _child(name: str, up: CheckUp, result: Path) -> None:
    os.setpgrp()
    started = time.monotonic()
    try:
        outcome = PARTS[name](up)
    except Exception as error:  # every failure is a result here
        outcome = {"passed": False, "error": f"{type(error).__name__}: {error}"[:4000]}
    write_json_atomically(result, {**outcome, "part_seconds": round(time.monotonic() - started, 1)})
    os._exit(0)  # threads of libraries must not turn a finished part into a failed one


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    device = platform.processor() or platform.machine()
    if options.device == "cuda":
        device = torch.cuda.get_device_name(0)
    return {
        "device": device,
        "cores": os.cpu_count(),
        "lcl": __version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip,
        "quick": options.quick,
    }
