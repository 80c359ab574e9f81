"""What the conversations are made of; importing this registers every maker of exchanges."""

from demo_model.exchanges import everyday, geography, numbers, talk, words

__all__ = ["everyday", "geography", "numbers", "talk", "words"]
