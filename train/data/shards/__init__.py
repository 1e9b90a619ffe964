"""Token files that need not fit into memory: how they are read, cut into windows and written."""

from .open_shard import Shard as Shard
from .shard_fold import ShardFold as ShardFold
from .shard_fold import Span as Span
from .write_bytes import write_bytes as write_bytes
from .write_shards import write_shards as write_shards
