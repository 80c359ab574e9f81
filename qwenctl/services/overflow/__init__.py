"""What becomes of prompts that the context does not hold: refused, cut in the middle, or summarised; never silently."""
