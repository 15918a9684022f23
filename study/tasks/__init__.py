"""Question sets: reading them from files of many layouts into items with right and wrong answers."""
