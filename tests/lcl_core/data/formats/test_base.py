"""What the readers share."""

import pytest

from lcl_core.data.formats.base import split_from_name


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("cc3m-train-0000.tar", "train"),
        ("cc3m-validation-0000.tar", "val"),
        ("wit_v1.val.all-00000-of-00005.tsv.gz", "val"),
        ("wit_v1.train.all-00000-of-00010.tsv.gz", "train"),
        ("Train_GCC-training.tsv", "train"),
        ("DEV.jsonl", "val"),
        ("captions_val2017.csv", "val"),
        ("test/0.tar", "test"),
        ("test/part-train-0.tar", "train"),
        ("cc3m-valid/00000.parquet", "val"),
        ("deep/test/data/0.csv", "test"),
        ("test_bench-train-0.parquet", "train"),
        ("train_test.csv", "test"),
        ("latest-contest.csv", "train"),
        ("0.csv", "train"),
    ],
)
def test_the_split_is_that_of_the_name_or_of_its_folders(name, split):
    assert split_from_name(name) == split
