"""What a spec names, opened."""

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.file_corpus import FileCorpus
from lcl_core.data.corpus.open import open_source
from lcl_core.data.formats import open_reader
from lcl_core.data.shards.convert import convert
from lcl_core.specs.corpus_jobs import ConvertSpec


@pytest.mark.parametrize("form", ["native", "shards"])
def test_options_are_refused_for_our_own_forms(kit, tmp_path, form):
    path = kit.corpus(pairs=[kit.pair("red.png", "x")]).path
    if form == "shards":
        convert(open_reader(path).records(), tmp_path / "shards")
        path = tmp_path / "shards"
    with pytest.raises(UserError, match=f"the {form} reader has no option 'imags'") as caught:
        open_source(ConvertSpec(path=str(path), options={"imags": "/x"}, name="made"), {})
    assert (caught.value.code, caught.value.field) == ("bad_option", "options.imags")


def test_a_path_without_options_is_opened_as_it_is(kit):
    path = kit.corpus(pairs=[kit.pair("red.png", "x")]).path
    assert isinstance(open_source(ConvertSpec(path=str(path), name="made"), {}), FileCorpus)


@pytest.mark.parametrize(("name", "format"), [("captions_val2017.json", "coco"), ("dataset_coco.json", "karpathy")])
@pytest.mark.parametrize("whole", ["folder", "file"])
def test_images_above_a_root_are_refused(tmp_path, name, format, whole):
    """The images of ROOT/annotations are those of ROOT, which need not be a root that may be read."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / name).write_text('{"images": [], "annotations": []}')
    path = folder if whole == "folder" else folder / name
    spec = ConvertSpec(path=str(path), format=format, name="made")
    assert open_source(spec, {}, [str(tmp_path)]).format == format
    with pytest.raises(UserError, match="outside the folders that may be read") as caught:
        open_source(spec, {}, [str(folder)])
    assert (caught.value.code, caught.value.field) == ("invalid_value", "options.images")
    named = spec.model_copy(update={"options": {"images": str(folder)}})
    assert open_source(named, {}, [str(folder)]).format == format
