"""``warmeng bench``."""
