"""The terminal chat: a contract for the screen, its two implementations, the slash commands and the loop over turns."""
