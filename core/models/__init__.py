"""Recurrent models and the bundle they travel in."""
