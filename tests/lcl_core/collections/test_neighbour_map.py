from __future__ import annotations

import numpy as np
import pytest

from lcl_core.collections import file_format
from lcl_core.collections.changes import ChangeRecord, Delta
from lcl_core.collections.collection import Collection
from lcl_core.collections.projection import kept_neighbours, project_neighbours, project_pca, spread_rows
from lcl_core.collections.writer import CollectionItem, CollectionWriter


def groups(count, size, width=32):
    """f32 [count × size, width] of length 1: tight groups in directions of their own."""
    random = np.random.default_rng(0)
    centres = np.repeat(np.linalg.qr(random.normal(size=(width, width)))[0][:count], size, axis=0)
    rows = centres + 0.1 * random.normal(size=(count * size, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_groups_that_two_axes_mix_are_apart():
    vectors = groups(12, 20)
    points = project_neighbours(vectors)
    assert points.dtype == np.float32
    assert np.abs(points).max() == pytest.approx(1)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.array_equal(distances.argmin(axis=1) // 20, np.arange(240) // 20)
    ours, axes = (kept_neighbours(vectors, found) for found in (points, project_pca(vectors).points))
    assert ours is not None
    assert axes is not None
    assert ours > 1.5 * axes


def test_few_vectors_lie_on_their_principal_components():
    assert np.array_equal(project_neighbours(groups(4, 1)), project_pca(groups(4, 1)).points)


@pytest.mark.parametrize("rows", [5, 8])
def test_equal_vectors_have_places(rows):
    found = project_neighbours(np.repeat(groups(1, 1), rows, axis=0))
    assert found.shape == (rows, 2)
    assert np.isfinite(found).all()


def test_steps_are_told_and_a_stop_is_obeyed():
    told = []
    project_neighbours(groups(4, 10), lambda *steps: told.append(steps))
    assert told == [(step, 350) for step in range(10, 351, 10)]

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project_neighbours(groups(4, 10), stop)


@pytest.mark.parametrize("limit", [7, 40])
def test_a_collection_keeps_places_of_its_images_and_of_those_that_were_added(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(file_format, "MAX_PLACES", limit)
    vectors = groups(4, 10)
    with CollectionWriter(tmp_path / "it", name="n", encoder_hash="0" * 64, dataset_hash="", dim=32) as writer:
        writer.add_items([CollectionItem(f"{row}.png", b"", "image/png") for row in range(40)], vectors)
        writer.arrange()
    made, rows = Collection.open(tmp_path / "it", verify=True), spread_rows(40, limit)
    positions, places = made.neighbour_places()
    assert np.array_equal(positions, rows)
    assert np.array_equal(places, project_neighbours(made.vectors()[1][rows]))
    record = {"captions": [], "labels": {}, "split": "", "source": "", "media_type": "image/png"}
    changes = [ChangeRecord(1, file_format.item_id("39.png"))]  # removed
    for number, (name, row) in enumerate(
        (("0.png", 0), ("new.png", int(rows[2]))), 2
    ):  # a tag; an image like the third
        added = {"id": file_format.item_id(name), "image": name, **record}
        changes.append(ChangeRecord(number, added["id"], added, vectors[row].tobytes()))
    changed = made.with_delta(Delta().with_changes(changes))
    positions, found = changed.neighbour_places()
    ids = changed.at("images", positions)[0]
    assert ids == [*(file_format.item_id(f"{row}.png") for row in rows[1:-1]), changes[1].item, changes[2].item]
    assert np.array_equal(found, [*places[1:-1], places[0], places[2]])
