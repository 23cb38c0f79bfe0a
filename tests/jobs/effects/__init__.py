"""The effect of every setting: what differs between two of its values, in a tiny run or output."""
