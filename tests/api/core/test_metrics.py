"""What Prometheus reads: scraped over HTTP, parsed, and right."""

import shutil
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete

from api.core.metrics import ServiceMetrics
from lcl_core.db import complete_run
from lcl_core.db.artifacts import enqueue_upload
from lcl_core.db.models import ArtifactUpload, Worker
from lcl_core.db.session import Database
from lcl_core.jobs import JOB_KINDS, RESOURCE_CLASSES


def scrape(http):
    answer = http.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return {family.name: family.samples for family in families}


def one(samples, name, **labels):
    (found,) = [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]
    return found


def test_runs_and_requests_are_counted(live_service, http):
    run_id = live_service.submit()
    http.get(f"/v1/runs/{run_id}")
    http.get("/v1/nowhere")
    found = scrape(http)
    assert one(found["lcl_runs"], "lcl_runs", state="queued") >= 1
    assert one(found["lcl_runs"], "lcl_runs", state="running") == 0
    counted = "lcl_request_seconds_count"
    assert one(found["lcl_request_seconds"], counted, route="/v1/runs/{run_id}", status="200") >= 1
    assert one(found["lcl_request_seconds"], counted, route="unmatched", status="404") >= 1
    assert run_id not in http.get("/metrics").text, "ids are no labels"


def test_the_queue_is_reported_for_every_kind(live_service, http):
    usual, on_gpu = {"kind": "pretrain", "class": "accelerator"}, {"kind": "pretrain", "class": "gpu"}
    before = one(scrape(http)["lcl_queue_depth"], "lcl_queue_depth", **usual)
    runs = [live_service.submit(), live_service.submit(resource="gpu")]
    found = scrape(http)
    assert one(found["lcl_queue_depth"], "lcl_queue_depth", **usual) == before + 1
    assert one(found["lcl_queue_depth"], "lcl_queue_depth", **on_gpu) == 1
    reported = [(each.labels["kind"], each.labels["class"]) for each in found["lcl_queue_depth"]]
    assert sorted(reported) == sorted(product(JOB_KINDS, RESOURCE_CLASSES))
    assert one(found["lcl_queue_oldest_seconds"], "lcl_queue_oldest_seconds", **on_gpu) > 0
    assert one(found["lcl_queue_oldest_seconds"], "lcl_queue_oldest_seconds", kind="match", **{"class": "gpu"}) == 0
    for run_id in runs:
        live_service.admin.cancel(run_id)


def test_workers_and_their_slots(live_service, http):
    moment = datetime.now(UTC)
    with live_service.context.database.session() as session:
        facts = {"host": "here", "pid": 7, "slots": 3, "devices": ["cpu"]}
        session.add(Worker(id="w-m", started_at=moment, seen_at=moment, **facts))
    claim = live_service.claim(live_service.submit())
    found = scrape(http)
    assert one(found["lcl_workers"], "lcl_workers") == 1
    assert one(found["lcl_worker_slots"], "lcl_worker_slots") == 3
    assert one(found["lcl_worker_slots_used"], "lcl_worker_slots_used") == 1
    live_service.settle(claim, complete_run.RunCancelled())


def test_what_gpus_do_is_reported_once_their_worker_is_alive(live_service, http):
    assert scrape(http)["lcl_gpu_utilization"] == []
    moment = datetime.now(UTC)
    gpu = {
        "id": "GPU-0",
        "name": "NVIDIA L4",
        "utilization": 0.37,
        "memory_used": 2.0**30,
        "memory_total": 24.0 * 2**30,
    }
    split = {**gpu, "id": "MIG-1", "utilization": None}
    facts = {"host": "there", "pid": 7, "slots": 1, "devices": ["NVIDIA L4"] * 2, "started_at": moment}
    with live_service.context.database.session() as session:
        session.add(Worker(id="w-gpu", seen_at=moment, gpus=[gpu, split], gpu_ids=["GPU-0", "MIG-1"], **facts))
        session.add(Worker(id="w-gone", seen_at=moment - timedelta(minutes=5), gpus=[gpu], **facts))
    found = scrape(http)
    (share,) = found["lcl_gpu_utilization"]
    assert (share.value, share.labels) == (0.37, {"worker": "w-gpu", "gpu": "0", "name": "NVIDIA L4"})
    assert [each.value for each in found["lcl_gpu_memory_used_bytes"]] == [2.0**30] * 2
    assert [each.value for each in found["lcl_gpu_memory_bytes"]] == [24.0 * 2**30] * 2
    (reported,) = [each for each in http.get("/v1/workers").json()["items"] if each["id"] == "w-gpu"]
    assert reported["gpus"] == [{**each, "use": "free", "run": None} for each in (gpu, split)]
    with live_service.context.database.session() as session:
        session.execute(delete(Worker).where(Worker.id.in_(["w-gpu", "w-gone"])))


def test_artifacts_on_their_way_to_the_store_are_counted(live_service, http):
    assert one(scrape(http)["lcl_artifacts_pending"], "lcl_artifacts_pending") == 0
    with live_service.context.database.session() as session:
        enqueue_upload(session, "runs/run_1", 1, "home_a")
        enqueue_upload(session, "encoders/enc_1", 1, "home_b")
        session.get_one(ArtifactUpload, "runs/run_1").enqueued_at -= timedelta(hours=2)
    found = scrape(http)
    assert one(found["lcl_artifacts_pending"], "lcl_artifacts_pending") == 2
    oldest = "lcl_artifacts_oldest_seconds"
    assert one(found[oldest], oldest) == pytest.approx(7200, abs=300)
    with live_service.context.database.session() as session:
        session.execute(delete(ArtifactUpload))
    assert one(scrape(http)[oldest], oldest) == 0


@pytest.mark.usefixtures("encoder")
def test_inference_tells_its_latency_its_batches_and_its_memory(http, encoder_dir, eventually):
    assert one(scrape(http)["lcl_encoder_memory_bytes"], "lcl_encoder_memory_bytes") == 0
    assert http.post("/v1/embeddings", json={"model": "tiny", "input": ["a", "b"]}).status_code == 200

    def counted():  # a batch is counted just after its answers left
        samples = scrape(http)["lcl_inference_seconds"]
        return sum(each.value for each in samples if each.name.endswith("_count") and each.labels["what"] == "texts")

    eventually(lambda: counted() == 2)
    batches = scrape(http)["lcl_inference_batch_items"]
    assert one(batches, "lcl_inference_batch_items_sum", what="texts") == 2
    on_disk = (encoder_dir / "model.safetensors").stat().st_size
    assert one(scrape(http)["lcl_encoder_memory_bytes"], "lcl_encoder_memory_bytes") >= 0.9 * on_disk


def test_the_free_space_of_the_disk_is_reported(live_service, http):
    found, usage = scrape(http), shutil.disk_usage(live_service.home)
    assert one(found["lcl_disk_bytes"], "lcl_disk_bytes", folder=str(live_service.home)) == usage.total
    assert 0 < one(found["lcl_disk_free_bytes"], "lcl_disk_free_bytes") < usage.total


@pytest.mark.parametrize("there", [True, False])
def test_a_database_that_is_away_costs_its_figures_alone(tmp_path, there):
    database = Database(f"sqlite:///{tmp_path / 'lcl.db'}")
    if there:
        database.migrate()
    metrics = ServiceMetrics(database, tmp_path, lambda: 0)
    metrics.observe("GET", "/healthz", 200, 0.1)
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    found = {family.name: family.samples for family in families}
    assert found["lcl_database_up"][0].value == float(there)
    assert ("lcl_runs" in found) is there
    assert found["lcl_request_seconds"]
    database.dispose()
