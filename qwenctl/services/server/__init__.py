"""`qwenctl serve` as an ASGI application: who may ask, how much, which model answers, and how answers leave."""
