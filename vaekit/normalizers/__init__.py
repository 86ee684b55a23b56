"""z ↔ the scale in which other models take it. One idea a file; importing this package registers them."""

from vaekit.normalizers.batchnorm import BatchNormNormalizer as BatchNormNormalizer
from vaekit.normalizers.channel_stats import ChannelStatsNormalizer as ChannelStatsNormalizer
from vaekit.normalizers.scale_shift import ScaleShiftNormalizer as ScaleShiftNormalizer
