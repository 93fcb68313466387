"""Which channels of a network can be removed, and what has to go with each.

The network's code is followed by `torch.fx`, every channel with it from the filter that
makes it to all layers that take it.
"""

from alds_cli.surgery.channels.find import find_channels
from alds_cli.surgery.channels.groups import ChannelGroup, Channels, Member

__all__ = ["ChannelGroup", "Channels", "Member", "find_channels"]
