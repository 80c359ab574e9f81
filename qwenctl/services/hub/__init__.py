"""Models from a hub: what a name means, what lies there, and how its bytes get here whole."""
