"""The sharded form of a corpus: tar shards that any WebDataset tool reads, and an offset index.

Any document is one range read, from a folder or from any fsspec URL. See ``layout`` for what lies where.
"""

from lcl_core.data.shards.convert import DEFAULT_SHARD_BYTES, ConvertReport, convert
from lcl_core.data.shards.corpus import ShardedCorpus
from lcl_core.data.shards.index import ShardIndex

__all__ = ["DEFAULT_SHARD_BYTES", "ConvertReport", "ShardIndex", "ShardedCorpus", "convert"]
