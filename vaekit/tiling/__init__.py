"""Large images in tiles, with the numbers of the whole image.

Group norms take the statistics of the whole map, attention sees the whole map where it is small, and tiles come with
the pixels around them that convolutions read. Maps of full size and width are never held together: they are computed
once for each norm, and once for the result.
"""

from vaekit.tiling.memory import MemoryPlan, TileCost, memory_plan
from vaekit.tiling.meter import Meter
from vaekit.tiling.run import in_tiles, run_tiled
from vaekit.tiling.stages import Chain, Stage, chain

__all__ = [
    "Chain",
    "MemoryPlan",
    "Meter",
    "Stage",
    "TileCost",
    "chain",
    "in_tiles",
    "memory_plan",
    "run_tiled",
]
