"""The demo: the whole cycle with real processes on one machine, watched and judged by a spectator without a key."""
