"""The latents of a data set on disk, for a model that is trained on them, such as a diffusion model.

    OUT/
      index.json                  what they were made of and how, and the shards with their sizes and digests
      shard-00000.safetensors     z, or mean and std, or codes; and label where the data have labels
      shard-00001.safetensors     …

A shard is whole or not there, and counts once the index names it. Killed at whatever instant, the same call goes on
after the last whole shard, and the end is the same, bit for bit on the CPU.
"""

from vaekit.cache.encode import encode_dataset as encode_dataset
from vaekit.cache.read import CachedLatents as CachedLatents
