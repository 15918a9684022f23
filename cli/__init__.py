"""One file for each ``warmeng`` command. No logic lives here."""
