"""Task kinds: what is trained, and how anybody checks that it was."""
