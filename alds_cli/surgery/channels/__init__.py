"""The channels of a network that can be removed, and the parts that have to go with each.

The network's code is traced by `torch.fx`, and every channel is followed from the filter that
computes it to all layers that use it.
"""

from alds_cli.surgery.channels.find import find_channels
from alds_cli.surgery.channels.groups import ChannelGroup, Channels, Member

__all__ = ["ChannelGroup", "Channels", "Member", "find_channels"]
