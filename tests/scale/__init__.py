"""Simulations of what does not fit on one machine: the driver at a million parts, on a store that counts requests."""
