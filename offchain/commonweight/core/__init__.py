"""The protocol as pure functions: no clock, no socket, no file, no torch. Everything above stands on this floor."""
