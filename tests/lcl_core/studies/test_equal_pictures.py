"""Built-in studies compare methods under equal images seen: the image budget is what fills a batch."""

from itertools import islice

import pytest

from lcl_core.data.sampling.loader import load_batches
from lcl_core.data.sampling.packing import Cursor
from lcl_core.data.sampling.stream import SampleStream
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import StudySpec
from lcl_core.studies.trials import expand_study
from lcl_core.train.factory import build_tokenizer, open_corpora

ROWS = {cell.labels["data"]: cell for cell in expand_study(parse_as(StudySpec, {"preset": "data_ablation"}))}


@pytest.mark.parametrize("data", ["pairs", "interleaved", "both"])
def test_every_step_reads_as_many_images_whatever_the_data(data, sample_zip):
    spec = ROWS[data].spec
    corpora = open_corpora(spec, {"sample": str(sample_zip)})
    stream = SampleStream(
        spec.data,
        corpora,
        build_tokenizer(spec, corpora),
        num_image_tokens=spec.kept_patches,
        image_size=spec.model.image_size,
        context_length=spec.model.context_length,
        seed=spec.seed,
        numerics=spec.numerics,
    )
    batches = load_batches(stream, Cursor(), spec.batch, 0, spec.data.packing_lookahead)
    assert [batch.images for batch in islice(batches, 3)] == [spec.batch.images] * 3 == [128] * 3


def test_table_1_reads_the_same_two_views():
    def data(cell):
        return cell.spec.data, cell.spec.batch

    cells = expand_study(parse_as(StudySpec, {"preset": "table1"}))
    assert {data(cell) for cell in cells} == {data(ROWS["pairs"]), data(ROWS["interleaved"])}
