"""How long requests would take on a card that is not here: the real scheduler on a device that only keeps time."""
