"""The channels of a network that can be removed, and the parts that have to go with each.

The network's code is traced by `torch.fx`, and every channel is followed from the filter that
computes it to all layers that use it. That is `find.find_channels`; only what removes filters
imports it, because a compression by pairs would load all of this for nothing.
"""

from alds_cli.surgery.channels.groups import ChannelGroup, Channels, Member

__all__ = ["ChannelGroup", "Channels", "Member"]
